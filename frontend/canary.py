"""The canary: the emitted file is run as a user would run it, and must give what it should.

Passes are checked in memory, with ORT's optimizer off.  What is written is another thing: the
optimizer fuses, weights are read from the file, and some runtimes return zeros where they lack a
kernel.  So the file itself is run before it is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.compare import Moved, is_float, moved_beside_mask
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.noise import NOISE_MARGIN, rounding_noise
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.passes.core.stage import Stage
from bitfold.runtime.errors import BitfoldError, VerificationError
from bitfold.runtime.op_library import op_library_path
from bitfold.runtime.session import Session

ROUNDING = 5e-2
"""An output may move by this share of its root mean square: codes that fall to the other side.

In a deep model that is a few percent, where a softmax decides between near equals.  What a pass
does wrong is for the finer checks of each pass to see.
"""

MOST = 0.7
"""No noise excuses more than this, or than twice its own size; zeros are off by 1."""


def check_file(path: Path, model: ir.Model, reference: Stage) -> None:
    """Load the file, run it on the samples, and compare with the quantized model before lowering.

    An output may differ by :data:`ROUNDING`, or by a few times the noise that rounding alone makes
    in the reference (:mod:`~bitfold.passes.core.noise`), whichever is more.

    Args:
        model: what was written to the file.
        reference: the model that the file must agree with; samples whose outputs it has kept are
            run.

    Raises:
        VerificationError: an output is not finite, is the same number everywhere, or is too far
            from the reference.
        BitfoldError: ORT does not load or run the file.
    """
    session = _open(path)
    names = [value.name for value in session.outputs if value.dtype is not None]
    if not names or any(value.dtype is None for value in session.inputs):
        return  # NumPy has no such arrays; that the file loads is all that can be seen
    for index, expected in reference.computed.items():
        feeds = reference.samples[index]
        found = session.run(to_own(model.graph.inputs, feeds), names)
        found = to_original(model.graph.outputs, found)
        kept = {name: array for name, array in expected.items() if name in found}
        reason = _difference(kept, found, reference, feeds)
        if reason:
            raise VerificationError(
                f"{path.name} gives wrong answers in ONNX Runtime: {reason} (sample {index})",
                "nothing was written; another --target, or --exclude for the sites that it names, "
                "may do",
            )


def _open(path: Path) -> Session:
    """As a user would; without the op library, by the function bodies in the file."""
    try:
        op_library_path()
    except BitfoldError:
        return Session(path, library=False)
    return Session(path)


def _difference(
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    reference: Stage,
    feeds: Feeds,
) -> str:
    """What is wrong with the outputs, or an empty string."""
    suspects: dict[str, Moved] = {}
    for name, array in expected.items():
        other = found[name]
        if is_float(array) and array.size > 1 and _is_flat(other) and not _is_flat(array):
            return f"output {name!r} is {other.flat[0]} everywhere"
        apart = moved_beside_mask(array, other)
        if not np.isfinite(apart.rms_error):
            return f"output {name!r} has other values that are not finite, or another shape"
        if apart.rms_error > ROUNDING:
            suspects[name] = apart
    if suspects:
        noise = rounding_noise(reference.runs, feeds, expected)
        for name, apart in suspects.items():
            alone = noise[name].rms_error
            allowed = min(max(MOST, 2 * alone), max(ROUNDING, NOISE_MARGIN * alone))
            if apart.rms_error > allowed:
                return (
                    f"output {name!r} is off by {apart.rms_error:.2g} of its root mean square, "
                    f"expected at most {allowed:.2g}"
                )
    return ""


def _is_flat(array: np.ndarray) -> bool:
    return array.size > 0 and bool((array == array.flat[0]).all())
