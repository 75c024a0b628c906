"""Save small checkpoints with PyTorch, in both of its formats: `python save_checkpoints.py`.

Needs torch, which the tests do not: they read the files that this wrote.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "checkpoints"


def state() -> OrderedDict[str, object]:
    """Tensors of many types and strides, two that share a storage, and a nested dictionary."""
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8
    tensors: OrderedDict[str, object] = OrderedDict()
    tensors["whole"] = whole
    tensors["transposed"] = whole.t()
    tensors["column"] = whole[:, 2]
    tensors["parameter"] = torch.nn.Parameter(torch.tensor([[1.5, -2.0], [0.25, 3.0]]))
    tensors["scalar"] = torch.tensor(7)
    tensors["empty"] = torch.zeros(0, 3)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int16):
        tensors[str(dtype).removeprefix("torch.")] = torch.arange(-3, 5).to(dtype)
    tensors["uint8"] = torch.arange(250, 256).to(torch.uint8)
    tensors["int8"] = torch.arange(-3, 5).to(torch.int8)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["nested"] = {"bias": torch.ones(3), "epoch": 12, "note": "no tensor"}
    return tensors


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    torch.save(state(), FOLDER / "zip.pth")
    torch.save(state(), FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for index, value in enumerate(module.state_dict().values()):
            value.fill_(index)
    torch.save(module.state_dict(), FOLDER / "module.pth")
    torch.save(module, FOLDER / "pickled_module.pth")
