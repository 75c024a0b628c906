"""Time the kernels in ORT against this machine's limits and ORT's own kernels, in one run.

Run from anywhere::

    python tests/benchmarks/bench_kernels.py [--threads 1,2] [--only gemv,planes] [--json out.json]

Every result is checked against the reference before it is timed.  Each row says how much of the
tighter of two limits it reaches, both measured beside it, by as many threads: the rate at which
the weight's bytes can be read from the level of memory that they live in, and the rate of int8
multiplications.  The peers are ORT's f32 MatMul and its MatMulNBits of as many bits, and of 4
bits in blocks of 32, each at its faster ``accuracy_level``; those of activations of one to four
bits (``planes``) are our own kernels of int8 ones, those of low-rank branches (``low_rank``) the
same branch of stock nodes, and none, and those of transformed activations (``hadamard``) plain
ones.  A C++ compiler builds the probe that measures the limits.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    # What pytest would find from here: the tests' support, and bitfold's checkout.
    sys.path[:0] = [str(tests), str(tests.parent)]
    runpy.run_module("benchmarks.kernels", run_name="__main__", alter_sys=True)
