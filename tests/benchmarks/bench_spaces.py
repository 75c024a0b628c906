"""Time the analysis of channel spaces on decoders of 10 to 300 layers of SmolLM2's sizes.

Run from anywhere::

    python tests/benchmarks/bench_spaces.py [--layers 10,30,100,300] [--json out.json]

Times are of the process, not of the clock: what else the machine does adds little to them.  Every
survey is checked for the spaces that so many layers have before its time is printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path


def measure(layers: int, rounds: int = 3) -> dict[str, float]:
    """Best seconds of a survey of a decoder of so many layers."""
    from support.deep_decoder import SMOLLM2, deep_decoder

    from bitfold.passes.analysis.spaces import kinds
    from bitfold.passes.analysis.spaces.survey import survey_spaces

    model = deep_decoder(layers, **SMOLLM2)
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        found = survey_spaces(model)
        best = min(best, time.process_time() - start)
    count = Counter(each.kind for each in found)
    per_layer = {count[kind] for kind in (kinds.QUERY_KEY, kinds.VALUES, kinds.GATED)}
    assert per_layer == {layers}, count
    assert count[kinds.STREAM] == 1, count
    nodes = sum(1 for _ in model.graph)
    return {"layers": layers, "nodes": nodes, "spaces": len(found), "seconds": best}


def main() -> None:
    """Print a line for each depth."""
    from bitfold.frontend.machine import describe_machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", default="10,30,100,300")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # parsing text knows no initializers
    machine = describe_machine()
    print(machine["cpu"])
    rows = []
    for layers in map(int, options.layers.split(",")):
        row = measure(layers, options.rounds)
        rows.append(row)
        each = 1e3 * row["seconds"] / row["nodes"]
        print(
            f"{layers:4} layers, {row['nodes']:5} nodes, {row['spaces']:4} spaces: "
            f"{row['seconds']:.2f} s, {each:.2f} ms a node",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": rows}, indent=2))


if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    # What pytest would find from here: the tests' support, and bitfold's checkout.
    sys.path[:0] = [str(tests), str(tests.parent)]
    main()
