"""What a model is compiled for, by name."""

from __future__ import annotations

from typing import Literal

Target = Literal["native", "ort", "portable"]
"""bitfold's own kernels, those of stock ONNX Runtime, or standard operators alone."""

ORT_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
