"""The section ``hadamard``: activations that are transformed before they are rounded.

``x none`` says which share of the time the matmul takes without the transform, and ``prep`` how
long transforming and rounding take as a share of the products alone.  A node of few outputs tells
the two apart, measured in turns with the whole one.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitfold.runtime.formats import FORMATS
from bitfold.runtime.hadamard import largest_block

from .machine import Machine
from .matmul import Options, Row, Site
from .ours import lowbit_matmul

FEW = 16
"""Outputs of the node that does little but prepare."""


def hadamard(machine: Machine, options: Options) -> Iterator[Row]:
    """int4 weights, for each shape, group and number of rows."""
    number = FORMATS["int4"]
    for k, n in options.shapes:
        site, size = Site(machine, options, k, n), largest_block(k)
        for group in options.groups:
            subject = lowbit_matmul(number, group, k, n, site.checked, hadamard=size)
            none = lowbit_matmul(number, group, k, n, site.checked)
            few = lowbit_matmul(number, group, k, FEW, site.checked, hadamard=size)
            for m in options.rows:
                for threads in options.threads:
                    run, *others = (site.run(each, m, 0, threads) for each in (subject, none, few))
                    row = site.measured(run, m, dict(zip(("none", "few"), others, strict=True)))
                    products = (1 - row["x few"]) * n / (n - FEW)
                    yield {
                        "section": "hadamard",
                        **row,
                        "bits": number.bits,
                        "group": group,
                        "preparation": 1 / products - 1,
                    }
