"""The section ``low_rank``: a branch within the kernel, beside one of stock nodes and none.

``x apart`` says how much faster than LowBitMatMul, two MatMuls and an Add that is, and ``x none``
which share of the time the matmul takes without a branch, measured in turns.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitfold.runtime.formats import FORMATS

from .machine import Machine
from .matmul import Options, Row, Site
from .ours import lowbit_matmul

RANKS = (16, 32, 64)


def low_rank(machine: Machine, options: Options) -> Iterator[Row]:
    """int4 weights, for each shape, largest group, rank and number of rows."""
    group, number = max(options.groups), FORMATS["int4"]
    for k, n in options.shapes:
        site = Site(machine, options, k, n)
        none = lowbit_matmul(number, group, k, n, site.checked)
        for rank in RANKS:
            subject = lowbit_matmul(number, group, k, n, site.checked, rank=rank)
            apart = lowbit_matmul(number, group, k, n, site.checked, rank=rank, apart=True)
            for m in (1, *options.rows):
                for threads in options.threads:
                    run, *others = (
                        site.run(each, m, 0, threads) for each in (subject, apart, none)
                    )
                    row = site.measured(run, m, dict(zip(("apart", "none"), others, strict=True)))
                    yield {"section": "low_rank", **row, "bits": 4, "rank": rank}
