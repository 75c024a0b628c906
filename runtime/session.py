"""A compiled model, loaded and ready to run: thin over ``onnxruntime.InferenceSession``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bitfold.runtime.decoder import Decoder
from bitfold.runtime.errors import BitfoldError, CalibrationError, ModelError, UnsupportedError
from bitfold.runtime.model_header import read_header
from bitfold.runtime.ops import DOMAIN
from bitfold.runtime.ort_errors import explained


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a model.

    Attributes:
        shape: a number for each fixed axis, a name or None for each free one.
        dtype: the NumPy type of its elements; None for what NumPy lacks.
    """

    name: str
    shape: tuple[int | str | None, ...]
    dtype: np.dtype[Any] | None


class Session:
    """A model file loaded in ONNX Runtime on the CPU, with bitfold's operators where it has any.

    Example::

        session = Session("model.onnx", threads=2)
        logits = session.run({"input_ids": ids, "attention_mask": mask})["logits"]

    Args:
        path: an ``.onnx`` file; its external data stays memory-mapped.
        threads: threads inside an operator; None for one per physical core.
        library: run bitfold's operators with their kernels.  Without it, or where the library
            is not built (which warns), they run as the function bodies in the file: the same
            answers, slowly.
        optimize: let ORT rewrite the graph while loading.
        spin: let threads wait busily for the next operator while a run goes on (a fifth faster
            where operators are short), or sleep between operators.
        config: more of ORT's session configuration entries, as they are.

    Raises:
        ModelError: no such file, or ORT refuses the model.
        UnsupportedError: the model has an operator or type that this ORT lacks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        library: bool = True,
        optimize: bool = True,
        spin: bool = True,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        header = read_header(self.path)
        self.metadata: dict[str, str] = header.metadata
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what matters comes back as an exception
        if threads is not None:
            if threads < 1:
                raise UnsupportedError(f"expected at least 1 thread, found {threads}")
            options.intra_op_num_threads = threads
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        # Between runs nobody gains from a busy wait, and whoever else needs the core loses.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        self.has_library = library and DOMAIN in header.opsets and _register(options)
        try:
            self._ort = ort.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise explained(error, f"{self.path.name} cannot be loaded") from error
        self._options = options
        self.inputs = tuple(_value_info(each) for each in self._ort.get_inputs())
        self.outputs = tuple(_value_info(each) for each in self._ort.get_outputs())

    def __repr__(self) -> str:
        return f"Session({str(self.path)!r})"

    @property
    def ort(self) -> ort.InferenceSession:
        """The ONNX Runtime session underneath."""
        return self._ort

    def run(
        self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Run once; returns output name to array, for all outputs or those named.

        Raises:
            CalibrationError: an input is missing, unknown, or of another type or rank.
            ModelError: an output does not exist, or a node failed (the message names it).
        """
        self._check_feeds(feeds)
        known = [value.name for value in self.outputs]
        names = known if outputs is None else list(outputs)
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ModelError(f"{self.path.name}: expected outputs among {known}, found {unknown}")
        try:
            results = self._ort.run(names, {k: np.asarray(v) for k, v in feeds.items()})
        except Exception as error:
            raise explained(error, f"{self.path.name} failed") from error
        return dict(zip(names, results, strict=True))

    def decoder(self, *, batch: int = 1, capacity: int = 256, share: bool = True) -> Decoder:
        """A stepper for a language model with (or without) a key/value cache; see `Decoder`.

        Raises:
            UnsupportedError: the model's inputs are not those of a language model.
        """
        return Decoder(self, batch=batch, capacity=capacity, share=share)

    def _check_feeds(self, feeds: Mapping[str, np.ndarray]) -> None:
        expected = {value.name: value for value in self.inputs}
        missing = [name for name in expected if name not in feeds]
        unknown = [name for name in feeds if name not in expected]
        if missing or unknown:
            parts = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
            raise CalibrationError(
                f"{self.path.name} expects inputs {list(expected)}: {', '.join(parts)}"
            )
        for name, value in expected.items():
            array = np.asarray(feeds[name])
            if value.dtype is not None and array.dtype != value.dtype:
                raise CalibrationError(
                    f"{self.path.name}, input {name}: expected {value.dtype}, found {array.dtype}"
                )
            fits = len(array.shape) == len(value.shape) and all(
                not isinstance(want, int) or want == have
                for want, have in zip(value.shape, array.shape, strict=True)
            )
            if value.shape and not fits:
                raise CalibrationError(
                    f"{self.path.name}, input {name}: expected shape {list(value.shape)}, "
                    f"found {list(array.shape)}"
                )


def _register(options: ort.SessionOptions) -> bool:
    """Register the op library; warn where there is none."""
    from bitfold.runtime.op_library import op_library_path

    try:
        options.register_custom_ops_library(str(op_library_path()))
    except Exception as error:
        cause = error if isinstance(error, BitfoldError) else explained(error, "it does not load")
        warnings.warn(
            f"no op library ({cause}): bitfold's operators run as function bodies, slowly",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True


_DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}
"""ORT's names of element types; what is missing here has no NumPy type of its own."""


def _value_info(value: Any) -> ValueInfo:
    inner = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype(_DTYPES[inner]) if inner in _DTYPES else None
    return ValueInfo(value.name, tuple(value.shape or ()), dtype)
