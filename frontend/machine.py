"""What a measurement must say about the machine it ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_ISAS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
"""CPU features, as Linux names them, that low-bit kernels care about."""


def describe_machine() -> dict[str, object]:
    """Processor, cores, instruction sets and versions, ready for JSON."""
    import onnxruntime

    import bitfold

    name, flags = _cpu()
    return {
        "cpu": name or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "isa": [isa for isa in _ISAS if isa in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "bitfold": bitfold.__version__,
    }


def _cpu() -> tuple[str, set[str]]:
    name, flags = "", set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return name, flags
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not name:
            name = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = set(value.split())
    return name, flags
