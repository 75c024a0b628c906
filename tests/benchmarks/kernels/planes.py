"""The section ``planes``: activations of one to four bits, beside the kernels of int8 ones.

Where weights and activations have few bits between them, planes of bits are multiplied instead of
bytes; ``x int8 kernel`` says how much faster that is than int8 activations and weights of the same
shape and groups, measured in turns.  The rate of int8 multiplications is no limit here: the
percentage says how many times over it is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from bitfold.runtime.formats import FORMATS

from .machine import Machine
from .matmul import Options, Row, Site
from .ours import lowbit_matmul
from .subject import Run

WIDTHS = (
    ("binary", "int1"),
    ("binary", "int2"),
    ("binary", "int4"),
    ("int2", "int1"),
    ("int2", "int2"),
    ("int4", "int1"),
    ("int4", "int4"),
)
"""Formats of weights and of activations; the last pair is multiplied as bytes."""


def planes(machine: Machine, options: Options) -> Iterator[Row]:
    """Every pair of widths, for each group size and for one scale a row."""
    for k, n in options.shapes:
        site = Site(machine, options, k, n)
        groups = [size for size in options.groups if size < k]
        for group, per in (*product(groups, options.per), (k, "token")):
            rival = lowbit_matmul(FORMATS["int8"], group, k, n, site.checked, per=per)
            rivals: dict[tuple[int, int], Run] = {}
            for name, acts in WIDTHS:
                subject = lowbit_matmul(FORMATS[name], group, k, n, site.checked, acts, per=per)
                for m in options.rows:
                    for threads in options.threads:
                        key = (m, threads)
                        if key not in rivals:
                            rivals[key] = site.run(rival, m, 0, threads)
                        run = site.run(subject, m, 0, threads)
                        row = site.measured(run, m, {"int8 kernel": rivals[key]})
                        bits = FORMATS[name].bits
                        yield {
                            "section": "planes",
                            **row,
                            "bits": bits,
                            "acts": acts,
                            "group": group,
                            "int8 GOPS": row["GOPS"] / row["x int8 kernel"],
                        }
