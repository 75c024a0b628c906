"""Nodes spoiled at random: refused with a reason, or answered as the oracle answers them.

Whatever reads or writes beyond a buffer ends the process: fed tensors border on pages that must
not be touched, and ``test_sanitizers.py`` runs this file under the address sanitizer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.conv_nodes import ConvCase, conv_model
from support.guard_pages import guarded_copy
from support.hostile import attributes, tensor
from support.kernel_checks import mismatch
from support.lowbit_nodes import Case, gather_attributes, gather_model, matmul_model, session

from bitfold.runtime.reference.lowbit_conv import lowbit_conv
from bitfold.runtime.reference.lowbit_gather import lowbit_gather
from bitfold.runtime.reference.lowbit_matmul import lowbit_matmul

MATMUL = Case(40, 96, 4, 32, act_group=32, zero_points=True, table=True, bias=True)
SWIGLU = Case(72, 48, 3, 16, activation="swiglu", zero_points=True)
PLANES = Case(40, 96, 2, 32, "int1", 32, zero_points=True)
LOW_RANK = Case(40, 96, 4, 32, act_group=32, rank=9, n_group=16)
MASKED = Case(40, 96, 4, 32, act_group=32, zero_points=True, bias=True, kept=0.5)
SKIPPED = Case(40, 96, 4, 32, act_group=32, keep=0.5, epsilon=1e-5, n_group=40)
SPLIT = Case(48, 64, 8, acts="none", splits=(16, 32))
GATHER = Case(40, 96, 4, 32, zero_points=True, table=True)
CONV = ConvCase(
    24, 32, (3, 3), 4, pads=(1, 1, 1, 1), group=16, act_group=16, zero_points=True, bias=True
)
CLIP = ConvCase(20, 18, (3,), 8, groups=2, activation="clip", out_scale=0.5, out_shift=1.0)
DEPTHWISE = ConvCase(12, 12, (3, 3), 5, groups=12, acts="none", table=True)

EXAMPLES = settings(max_examples=int(os.environ.get("BITFOLD_EXAMPLES", "40")))

MOST = 1 << 22
"""Numbers of an input that a node is really run on: beyond, to open it is enough."""


def refused(error: Exception) -> None:
    """A refusal names the operator and what it expected, or is ORT's own, of a tensor's type."""
    text = str(error)
    ours = "LowBit" in text and "expected" in text
    assert ours or "type" in text.lower(), f"refused without a reason: {text[:500]}"


def opened(make: Callable[[], onnx.ModelProto]) -> ort.InferenceSession | None:
    """A session, or None where the node is refused."""
    try:
        return session(make())
    except Exception as error:
        refused(error)
        return None


def answered(run: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """Outputs, or None where the node refuses to run."""
    try:
        return list(run.run(None, feeds))
    except Exception as error:
        refused(error)
        return None


def expect(y: np.ndarray, oracle: Callable[[], np.ndarray]) -> None:
    """What was answered is what the specification says, where float32 reaches."""
    expected = oracle()
    beyond = np.abs(expected) > 1e37
    wrong = mismatch(np.where(beyond, 0, y), np.where(beyond, 0, expected))
    assert not wrong, wrong


@pytest.mark.parametrize(
    "case",
    [MATMUL, SWIGLU, PLANES, SPLIT, LOW_RANK, MASKED, SKIPPED],
    ids=["plain", "swiglu", "planes", "splits", "low rank", "masked", "skipped"],
)
@EXAMPLES
@given(data=st.data())
def test_matmul_attributes(case: Case, data: st.DataObject) -> None:
    changed = data.draw(attributes(case.attributes()))
    inputs = case.weights()
    run = opened(lambda: matmul_model(changed, inputs))
    if run is None or changed["K"] > MOST:
        return
    x = np.random.default_rng(0).standard_normal((3, changed["K"]), np.float32)
    found = answered(run, {"X": x})
    if found is not None:
        kept = {k: v for k, v in changed.items() if k not in ("N", "K", "splits")}
        n, k = changed["N"], changed["K"]
        expect(np.concatenate(found, 1), lambda: lowbit_matmul(x, **inputs, n=n, k=k, **kept))


@EXAMPLES
@given(data=st.data())
def test_gather_attributes(data: st.DataObject) -> None:
    changed = data.draw(attributes(gather_attributes(GATHER)))
    inputs = GATHER.weights()
    run = opened(lambda: gather_model(changed, inputs))
    if run is None:
        return
    indices = np.array([0, changed["N"] - 1, -1])
    kept = {k: v for k, v in changed.items() if k not in ("N", "K", "layout")}
    found = answered(run, {"indices": indices})
    assert found is not None
    n, k = changed["N"], changed["K"]
    names = ("packed", "scales", "zero_points", "table")
    weights = [inputs.get(name) for name in names]
    expect(found[0], lambda: lowbit_gather(*weights, indices, n=n, k=k, **kept))


@pytest.mark.parametrize("case", [CONV, CLIP, DEPTHWISE], ids=["plain", "clip", "depthwise"])
@EXAMPLES
@given(data=st.data())
def test_conv_attributes(case: ConvCase, data: st.DataObject) -> None:
    changed = data.draw(attributes(case.attributes()))
    inputs = case.weights()
    run = opened(lambda: conv_model(changed, inputs))
    if run is None or changed["C"] > MOST:
        return
    # Large paddings and the like make outputs that take very long, or no memory that there is.
    for name in ("pads", "kernel_shape", "dilations"):
        if max(changed[name]) > 200:
            return
    x = np.random.default_rng(0).standard_normal(
        (1, changed["C"], *(9, 7)[: len(changed["kernel_shape"])]), np.float32
    )
    found = answered(run, {"X": x})
    if found is not None:
        kept = {k: v for k, v in changed.items() if k not in ("N", "C", "layout")}
        expect(found[0], lambda: lowbit_conv(x, **inputs, n=changed["N"], **kept))


def spoiled(case: Any, data: st.DataObject) -> tuple[dict[str, np.ndarray], str]:
    """A case's weights of which one is not as it should be, and which."""
    inputs: dict[str, np.ndarray] = case.weights()
    name = data.draw(st.sampled_from(sorted(inputs)))
    inputs[name] = data.draw(tensor(inputs[name]))
    return inputs, name


@pytest.mark.parametrize(
    "case", [MATMUL, SWIGLU, SPLIT, LOW_RANK, MASKED, SKIPPED, CONV, CLIP, DEPTHWISE], ids=repr
)
@EXAMPLES
@given(data=st.data())
def test_tensors(case: Case | ConvCase, data: st.DataObject) -> None:
    """A constant of another size, shape or type is refused when the session opens."""
    inputs, name = spoiled(case, data)
    model = matmul_model if isinstance(case, Case) else conv_model
    with pytest.raises(Exception, match=f"{name}: expected|[Tt]ype"):
        session(model(case.attributes(), inputs))


@EXAMPLES
@given(data=st.data())
def test_gather_tensors(data: st.DataObject) -> None:
    inputs, name = spoiled(GATHER, data)
    with pytest.raises(Exception, match=f"{name}: expected|[Tt]ype"):
        session(gather_model(gather_attributes(GATHER), inputs))


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mprotect")
@pytest.mark.parametrize(
    "case", [MATMUL, SWIGLU, LOW_RANK, MASKED, SKIPPED, CONV, DEPTHWISE], ids=repr
)
@EXAMPLES
@given(data=st.data())
def test_fed_tensors(case: Case | ConvCase, data: st.DataObject) -> None:
    """One that is fed is refused when the session runs, at the latest."""
    inputs, name = spoiled(case, data)
    if isinstance(case, Case):
        make, x = matmul_model, case.rows(2)
    else:
        make, x = conv_model, case.image(1, *(6, 5)[: len(case.kernel)])
    feeds = {key: guarded_copy(value, "end") for key, value in {"X": x, **inputs}.items()}
    with pytest.raises(Exception, match=f"{name}: expected|[Tt]ype"):
        session(make(case.attributes(), inputs, constant=False)).run(None, feeds)
