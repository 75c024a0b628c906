"""Read a safetensors file one weight at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.runtime.errors import ModelError, UnsupportedError


class SafetensorsFile:
    """The tensors of one safetensors file, which stay in it until they are asked for.

    Args:
        path: the file.

    Raises:
        UnsupportedError: the `safetensors` package is not installed.
        ModelError: the file is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError:
            raise UnsupportedError(
                "reading safetensors files needs the package safetensors",
                hint="pip install 'bitfold[models]'",
            ) from None
        try:
            self._file = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: no safetensors file, or a truncated one ({error})") from None
        self._names = frozenset(self._file.keys())

    def weight(self, name: str) -> ir.TensorProtocol:
        """A tensor by its name, as f32; its values are read at each call of its `numpy`.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self._names:
            raise KeyError(name)

        def read() -> ir.TensorProtocol:
            return ir.tensor(np.asarray(self._file.get_tensor(name), np.float32), name=name)

        shape = ir.Shape(self._file.get_slice(name).get_shape())
        return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=shape, name=name)
