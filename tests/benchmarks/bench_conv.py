"""Time LowBitConv in ORT against ORT's own float Conv on the same image, in one run.

Run from anywhere::

    python tests/benchmarks/bench_conv.py [--threads 2] [--json out.json]

Every result is checked against the oracle before it is timed.  Runs of both take turns; times
are lower deciles, since what else the machine does only adds to them.  The float Conv is timed as
a model of its own, with whatever layout ORT gives it, its reordering of input and output
included, as between two operators that ORT does not know.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    # What pytest would find from here: the tests' support, and bitfold's checkout.
    sys.path[:0] = [str(tests), str(tests.parent)]
    runpy.run_module("benchmarks.kernels.conv", run_name="__main__", alter_sys=True)
