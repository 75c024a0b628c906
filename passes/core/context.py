"""The context: what the passes of one run share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.report import PassEntry
from bitfold.runtime.errors import OutputError

Feeds = dict[str, np.ndarray]
"""One set of inputs of a model: name to array."""

SPOOL_THRESHOLD = 1 << 20
"""Tensors of at least this many bytes go to the spool file instead of memory."""


@dataclass
class Context:
    """What the passes of one run share; nothing is global.

    Attributes:
        samples: inputs on which promises are checked.
        calibration: inputs from which statistics are taken.
        made_up: whether the samples were made up, for want of real ones.
        seed: the only source of randomness; see :meth:`rng`.
        progress: called with a line of text and a fraction in [0, 1] during long work.
        entry: the report entry of the pass that is running; passes write to it.
    """

    samples: Sequence[Feeds] = ()
    calibration: Sequence[Feeds] = ()
    seed: int = 0
    progress: Callable[[str, float], None] = lambda text, fraction: None
    made_up: bool = False
    entry: PassEntry = field(default_factory=lambda: PassEntry("(none)", {}, "exact"))
    _spool: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    _spooled: int = field(default=0, repr=False)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator that depends on the seed and on ``purpose`` alone, not on call order."""
        return np.random.default_rng([self.seed, *purpose.encode()])

    def tensor(self, array: np.ndarray, name: str) -> ir.TensorProtocol:
        """Wrap a new weight as a tensor; a large one is moved to disk and memory-mapped.

        This keeps a run's memory at about one site's weight, however large the model is.

        Raises:
            OutputError: the disk is full.
        """
        array = np.ascontiguousarray(array)
        if array.nbytes < SPOOL_THRESHOLD:
            return ir.tensor(array, name=name)
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryDirectory(prefix="bitfold-")
            path = Path(self._spool.name) / f"{self._spooled}.bin"
            self._spooled += 1
            with path.open("wb") as file:  # array.tofile tells no cause when the disk is full
                file.write(array.reshape(-1).view(np.uint8).data)
            mapped = np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)
        except OSError as error:
            raise OutputError(
                f"the temporary folder {tempfile.gettempdir()} cannot hold {name!r} of "
                f"{array.nbytes >> 20} MiB: {error.strerror or error}",
                "free space, or set TMPDIR to a folder with enough of it",
            ) from error
        return ir.tensor(mapped, name=name)

    def close(self) -> None:
        """Delete the spooled weights; tensors made by :meth:`tensor` stay readable while mapped."""
        if self._spool is not None:
            self._spool.cleanup()
            self._spool = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
