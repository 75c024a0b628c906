"""Checks of the convolution kernels of one ISA; run as ``support.kernel_checks`` is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.conv_nodes import ConvCase, conv_model, conv_session
from support.guard_pages import BEHIND, guarded_copy
from support.kernel_checks import mismatch
from support.lowbit_nodes import session


def checked(case: ConvCase, x: np.ndarray, residual: bool = False) -> Iterator[str]:
    """What is wrong with one case's answer, without or with a residual."""
    inputs = case.weights()
    expected = case.expected(x, inputs)
    if residual:
        rng = np.random.default_rng(case.seed + 1)
        inputs["residual"] = rng.standard_normal(expected.shape, np.float32)
        expected = case.expected(x, inputs)
    y = session(conv_model(case.attributes(), inputs)).run(None, {"X": x})[0]
    wrong = mismatch(y, expected)
    if wrong:
        yield f"{case} X {x.shape}{' residual' * residual}: {wrong}"


def conv_formats() -> Iterator[str]:
    """Every width of codes with and without tables and zero points, scales in both types."""
    for bits in range(1, 9):
        for base in (
            ConvCase(40, 40, (3, 3), bits, pads=(1, 1, 1, 1)),
            ConvCase(33, 64, (3,), bits, pads=(1, 1), group=32, act_group=32),
            ConvCase(50, 96, (1, 1), bits, group=16),
            ConvCase(24, 24, (1, 1), bits),
            ConvCase(20, 20, (3, 3), bits, groups=20, acts="none", pads=(1, 1, 1, 1)),
        ):
            x = base.image(1, *(9,) * len(base.kernel))
            yield from checked(base, x)
            yield from checked(replace(base, zero_points=True, f16=False, bias=True), x)
            yield from checked(replace(base, table=True, activation="relu"), x)
            yield from checked(replace(base, zero_points=True, table=True, acts="none"), x)
            for kind in ("bf16", "e8m0", "e4m3"):
                yield from checked(replace(base, scales=kind, zero_points=kind == "e8m0"), x)
            if base.groups == 1:
                floats = replace(base, float_table=True, acts="none")
                yield from checked(replace(floats, zero_points=True, scales="e4m3"), x)
            # Zero points so large that levels less them do not fit in a byte.
            yield from checked(replace(base, zero_points=True, zero_range=127), x)


def conv_shapes() -> Iterator[str]:
    """Windows, strides, pads, dilations and conv groups over odd sizes, one and two axes."""
    geometries = [
        {"kernel": (1, 1)},
        {"kernel": (1, 1), "strides": (2, 3)},
        {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
        {"kernel": (3, 3), "pads": (0, 1, 1, 0), "strides": (2, 2)},
        {"kernel": (5, 3), "pads": (2, 0, 3, 1), "strides": (1, 2), "dilations": (1, 2)},
        {"kernel": (2, 7), "pads": (5, 9, 4, 8), "dilations": (3, 1)},
        {"kernel": (5, 5), "pads": (2, 2, 2, 2), "strides": (3, 3)},
        {"kernel": (3,), "pads": (1, 1)},
        {"kernel": (4,), "pads": (0, 7), "strides": (2,), "dilations": (2,)},
        {"kernel": (1,)},
    ]
    channels = [(1, 3, 1), (17, 5, 1), (40, 24, 1), (35, 50, 5), (64, 64, 2), (96, 48, 3)]
    for geometry in geometries:
        for index, (n, c, groups) in enumerate(channels):
            case = ConvCase(n, c, bits=4, groups=groups, bias=True, seed=index, **geometry)
            spatial = (11, 13) if len(case.kernel) == 2 else (37,)
            yield from checked(case, case.image(1 + index % 3, *spatial))
            if index % 2:
                yield from checked(replace(case, acts="none"), case.image(2, *spatial))


def conv_sizes() -> Iterator[str]:
    """Every number of channels, outputs and pixels from 1 on, one at a time."""
    for size in range(1, 40):
        for acts in ("int8", "none"):
            yield from checked(
                ConvCase(size, 32, (3, 3), 4, acts=acts), ConvCase(1, 32, (), 4).image(1, 5, 6)
            )
            if size > 1:
                case = ConvCase(20, size, (3,), 3, acts=acts, zero_points=True, pads=(1, 1))
                yield from checked(case, case.image(1, 9))
        for kernel, pads in (((1, 1), ()), ((3, 3), (1, 1, 1, 1))):
            case = ConvCase(40, 32, kernel, 8, pads=pads, group=16, act_group=16)
            yield from checked(case, case.image(1, 1, size))
            yield from checked(case, case.image(1, size, 3))
    case = ConvCase(100, 48, (3, 3), 4, pads=(1, 1, 1, 1), zero_points=True)
    yield from checked(case, case.image(2, 40, 61))
    if conv_session(case).run(None, {"X": case.image(0, 4, 4)})[0].shape != (0, 100, 4, 4):
        yield "no images"


def conv_depthwise() -> Iterator[str]:
    """Depthwise windows of every kind, with and without a channel multiplier."""
    for size in (*range(1, 20), 33, 60, 300):
        for k in (3, 5):
            for strides in ((1, 1), (2, 2), (2, 1), (1, 2)):
                half = k // 2
                case = ConvCase(
                    18,
                    18,
                    (k, k),
                    8,
                    groups=18,
                    strides=strides,
                    pads=(half,) * 4,
                    acts="none",
                    bias=True,
                )
                yield from checked(case, case.image(1, size, 7))
                yield from checked(case, case.image(1, 7, size))
    for geometry in (
        {"kernel": (3,), "pads": (1, 1)},
        {"kernel": (9,), "pads": (20, 3), "strides": (4,), "dilations": (2,)},
        {"kernel": (2, 3), "pads": (0, 0, 0, 0)},
        {"kernel": (3, 3), "pads": (2, 4, 1, 0), "dilations": (1, 2), "strides": (2, 3)},
        {"kernel": (3, 3), "dilations": (2, 3)},
        {"kernel": (7, 1), "pads": (3, 0, 3, 0)},
        {"kernel": (1, 1), "strides": (2, 2)},
        {"kernel": (2, 2), "pads": (0, 0, 400, 3000), "dilations": (400, 3000)},
    ):
        for n, c in ((6, 6), (40, 20), (7, 1)):
            case = ConvCase(n, c, bits=4, groups=c, acts="none", zero_points=True, **geometry)
            spatial = (12, 35) if len(case.kernel) == 2 else (50,)
            yield from checked(case, case.image(2, *spatial))
            yield from checked(replace(case, activation="clip"), case.image(1, *spatial))


def conv_activations() -> Iterator[str]:
    """All that is done to sums, in every way that a convolution is computed."""
    for case in (
        ConvCase(20, 32, (3, 3), 8),
        ConvCase(20, 32, (1, 1), 8, acts="none"),
        ConvCase(20, 64, (1, 1), 8, groups=2),
        ConvCase(200, 1024, (1, 1), 8, group=64),
        ConvCase(32, 32, (3, 3), 8, groups=32, acts="none"),
        ConvCase(32, 32, (2, 3), 8, groups=32, acts="none"),
    ):
        x = case.image(1, 8, 9)
        for clip in ((0.0, 6.0), (-3.0, 5.0), (-np.inf, 0.0)):
            yield from checked(replace(case, activation="clip", clip=clip, bias=True), x)
        yield from checked(replace(case, activation="relu"), x)
        for activation in ("none", "clip", "relu", "hardswish"):
            several = np.concatenate([x, -x]) * np.float32(0.2)
            one = replace(case, activation=activation, bias=True)
            yield from checked(one, several, residual=True)
            moved = replace(one, out_scale=0.75, out_shift=-2.5)
            yield from checked(moved, several)
            yield from checked(replace(moved, seed=3), case.image(1, 13, 21), residual=True)
            yield from checked(replace(moved, seed=3), case.image(1, 3, 530), residual=True)


def conv_pointwise() -> Iterator[str]:
    """Single pixels: cut by windows, by channels, or both; several images and conv groups."""
    for n, c, groups, size in (
        (24, 144, 1, 56),
        (96, 16, 1, 60),
        (1000, 512, 1, 14),
        (64, 96, 2, 20),
        (48, 24, 3, 7),
        (40, 40, 1, 7),
    ):
        for bits, zeros in ((8, False), (4, True)):
            case = ConvCase(n, c, (1, 1), bits, groups=groups, zero_points=zeros, bias=True)
            yield from checked(case, case.image(1, size, size))
            yield from checked(case, case.image(3, size, 5))
    case = ConvCase(33, 64, (1,), 8, group=16, act_group=16)
    yield from checked(case, case.image(2, 501))


def conv_broken() -> Iterator[str]:
    """NaN and infinity spoil the windows that hold them and no others; tiny pixels are zeros."""
    for case in (
        ConvCase(20, 32, (3, 3), 4, pads=(1, 1, 1, 1), zero_points=True, activation="relu"),
        ConvCase(20, 32, (3, 3), 4, pads=(1, 1, 1, 1), group=16, act_group=16),
        ConvCase(24, 36, (3, 3), 8, groups=2),
        ConvCase(24, 36, (3, 3), 8, groups=2, acts="none", activation="clip"),
        ConvCase(24, 36, (1, 1), 8, groups=2, activation="hardswish", out_shift=1.0),
    ):
        x = case.image(2, 9, 20)
        x[0, 3, 2, 2], x[0, 30, 7, 17], x[1, 0, 0, 9] = np.nan, np.inf, -np.inf
        x[1, :, 5] *= 1e-32
        x[1, :, 7] *= 1e30
        yield from checked(case, x)
    case = ConvCase(20, 32, (1, 1), 4)
    if conv_session(case).run(None, {"X": case.image(1, 5, 5) * np.float32(1e-32)})[0].any():
        yield "pixels below 1e-30 become zeros"


def conv_threads() -> Iterator[str]:
    """The same bits for any number of threads, and from several callers at once."""
    for case in (
        ConvCase(200, 64, (3, 3), 4, pads=(1, 1, 1, 1), zero_points=True),
        ConvCase(640, 96, (1, 1), 8, group=32, act_group=32),
        ConvCase(48, 96, (1, 1), 8, activation="hardswish", out_scale=0.3),
        ConvCase(96, 48, (3, 3), 8, groups=3, acts="none"),
        ConvCase(100, 100, (5, 5), 8, groups=100, acts="none", pads=(2, 2, 2, 2)),
    ):
        runs = [conv_session(case, count) for count in (1, 2, 3, 4)]
        for images, size in ((1, 7), (3, 14), (1, 57)):
            x = case.image(images, size, size)
            first, *others = [run.run(None, {"X": x})[0].tobytes() for run in runs]
            if any(other != first for other in others):
                yield f"{case} {images} x {size}: bits depend on the number of threads"
            shared = runs[1]

            def call(_: int, shared: ort.InferenceSession = shared, x: np.ndarray = x) -> bytes:
                return bytes(shared.run(None, {"X": x})[0].tobytes())

            with ThreadPoolExecutor(4) as pool:
                if any(each != first for each in pool.map(call, range(8))):
                    yield f"{case} {images} x {size}: concurrent calls disturb each other"


def conv_images() -> Iterator[str]:
    """An image's answer does not depend on the others: many small ones at a time, a few large."""
    for case, images, size in (
        (ConvCase(32, 64, (3, 3), 8, pads=(1, 1, 1, 1)), 40, 12),
        (ConvCase(16, 256, (1, 1), 4), 7, 90),
    ):
        x = case.image(images, size, size)
        run = conv_session(case, 2)
        y = run.run(None, {"X": x})[0]
        for index in (0, images // 2, images - 1):
            alone = run.run(None, {"X": x[index : index + 1]})[0]
            if alone.tobytes() != y[index : index + 1].tobytes():
                yield f"{case}: image {index} of {images}"


def conv_guard_pages() -> Iterator[str]:
    """Inputs and output that end, or begin, at a page that must not be touched."""
    for bits in range(1, 9):
        for case in (
            ConvCase(33, 35, (3, 3), bits, pads=(1, 1, 1, 1), zero_points=True, bias=True),
            ConvCase(35, 24, (1, 1), bits, table=True, f16=False),
            ConvCase(34, 64, (3, 3), bits, groups=2, group=16, acts="none", zero_points=True),
            ConvCase(19, 19, (3, 3), bits, groups=19, acts="none", pads=(1, 1, 1, 1), bias=True),
            ConvCase(19, 19, (3, 3), bits, groups=19, acts="none", strides=(2, 2)),
            ConvCase(19, 19, (2, 3), bits, groups=19, acts="none", activation="hardswish"),
        ):
            inputs = case.weights()
            fed_too = {**inputs, "residual": np.zeros(0, np.float32)}
            run = session(conv_model(case.attributes(), fed_too, constant=False))
            for size in ((7, 7), (3, 17), (16, 33)):
                x = case.image(1, *size)
                expected = case.expected(x, inputs)
                residual = np.arange(expected.size, dtype=np.float32).reshape(expected.shape) % 7
                expected += residual
                given = {"X": x, **inputs, "residual": residual}
                for side in BEHIND:
                    fed = {k: guarded_copy(v, side) for k, v in given.items()}
                    y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                    bound = run.io_binding()
                    for name, array in fed.items():
                        bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
                    bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                    run.run_with_iobinding(bound)
                    wrong = mismatch(y, expected)
                    if wrong:
                        yield f"{case} {size} {side}: {wrong}"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    check.__name__: check
    for check in (
        conv_formats,
        conv_shapes,
        conv_sizes,
        conv_depthwise,
        conv_activations,
        conv_pointwise,
        conv_broken,
        conv_threads,
        conv_images,
        conv_guard_pages,
    )
}
