"""The context: what the passes of one run share."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.parallel import Engine
from bitfold.passes.core.report import PassEntry
from bitfold.passes.core.spool import SPOOL_THRESHOLD, Spool
from bitfold.passes.core.store import Store
from bitfold.runtime.errors import BitfoldError

Feeds = dict[str, np.ndarray]
"""One set of inputs of a model: name to array."""

GIVEN, MADE_UP = "given", "made up"
"""Origins of samples: the user's, and for want of any others."""


@dataclass
class Context:
    """What the passes of one run share; nothing is global.

    Attributes:
        samples: inputs on which promises are checked; :meth:`ready_samples` makes those that are
            wanted and not there yet.
        calibration: inputs from which statistics are taken, the samples by default.
        calibration_origin: what these are, :data:`GIVEN` by default.
        origin: where the samples come from, such as :data:`GIVEN` or :data:`MADE_UP`.
        sampler: makes samples where there are none; it says where they come from.
        drawn_from: what the passes so far took statistics from; empty where none did.
        seed: the only source of randomness; see :meth:`rng`.
        progress: called with a line of text and a fraction in [0, 1] during long work.
        cache: keeps what long work found, for a later run; None to keep nothing.
        engine: where independent pieces of work are done; results do not depend on it.
        entry: the report entry of the pass that is running; passes write to it.
    """

    samples: Sequence[Feeds] = ()
    calibration: Sequence[Feeds] = ()
    seed: int = 0
    progress: Callable[[str, float], None] = lambda text, fraction: None
    origin: str = GIVEN
    calibration_origin: str = GIVEN
    sampler: Callable[[], tuple[Sequence[Feeds], str]] | None = None
    drawn_from: str = ""
    cache: Store | None = None
    engine: Engine = field(default_factory=Engine)
    entry: PassEntry = field(default_factory=lambda: PassEntry("(none)", {}, "exact"))
    _spool: Spool | None = field(default=None, repr=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator that depends on the seed and on ``purpose`` alone, not on call order."""
        return np.random.default_rng([self.seed, *purpose.encode()])

    @property
    def made_up(self) -> bool:
        """Whether the samples were made up, for want of real ones."""
        return self.origin == MADE_UP

    @property
    def real(self) -> bool:
        """Whether statistics are those of real inputs."""
        if self.calibration:
            return self.calibration_origin == GIVEN
        return not self.made_up

    def ready_samples(self) -> Sequence[Feeds]:
        """The samples; made by the sampler, once, where there are none.

        Raises:
            BitfoldError: none can be made that the model runs on.
        """
        if not self.samples and self.sampler is not None:
            sampler, self.sampler = self.sampler, None
            self.samples, self.origin = sampler()
        return self.samples

    def statistics(self) -> Sequence[Feeds]:
        """Inputs to take statistics from; what they are goes into the result's metadata.

        None where there are no samples and none can be made.
        """
        feeds, origin = self.calibration, self.calibration_origin
        if not feeds:
            try:
                feeds = self.ready_samples()
            except BitfoldError:
                return ()
            origin = self.origin
        if feeds:
            told = self.calibration or origin == GIVEN
            self.drawn_from = f"{origin} {digest_of(feeds)}" if told else origin
        return feeds

    def tensor(self, array: np.ndarray, name: str) -> ir.TensorProtocol:
        """Wrap a new weight as a tensor; a large one is moved to disk and memory-mapped.

        This keeps a run's memory at about one site's weight, however large the model is.

        Raises:
            OutputError: the disk is full.
        """
        if array.nbytes < SPOOL_THRESHOLD:
            return ir.tensor(np.ascontiguousarray(array), name=name)
        if self._spool is None:
            self._folder = tempfile.TemporaryDirectory(prefix="bitfold-")
            self._spool = Spool(Path(self._folder.name))
        return ir.tensor(self._spool.hold(array, name), name=name)

    def close(self) -> None:
        """Delete the spooled weights; tensors made by :meth:`tensor` stay readable while mapped."""
        if self._spool is not None and self._folder is not None:
            self._spool.close()
            self._folder.cleanup()
            self._spool = self._folder = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def digest_of(samples: Sequence[Feeds]) -> str:
    """The SHA-256 of the samples' names, types, shapes and bytes: equal for equal samples."""
    digest = hashlib.sha256()
    for feeds in samples:
        for name in sorted(feeds):
            array = np.asarray(feeds[name])
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            # Strings are objects, whose bytes are addresses.
            array = array.astype("U") if array.dtype == object else array
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"\n")
    return digest.hexdigest()
