"""Export the golden modules with both of torch's exporters, and write exported/*.onnx and *.npz.

Beside each module's files lie its example inputs and what torch itself makes of them; a file that
ONNX Runtime does not run to the same end is not kept.  Run it by hand, with torch 2.13 and
onnxscript installed: ``python -m tests.golden.export [NAME…]``.  The tests need no torch.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from .modules import SPECS
from .modules.spec import Spec

FOLDER = Path(__file__).parent / "exported"
OPSETS = {"torchscript": 17, "dynamo": 18}
SEED = 0


def export(spec: Spec, exporter: str, path: Path) -> None:
    """Write one module, and its arrays beside it.

    Raises:
        AssertionError: the exported graph computes something else than the module.
    """
    torch.manual_seed(SEED)
    module, inputs = spec.build().eval(), spec.inputs()
    options = {
        "input_names": list(inputs),
        "output_names": list(spec.outputs),
        "opset_version": OPSETS[exporter],
        "dynamo": exporter == "dynamo",
    }
    if exporter == "torchscript":
        options["dynamic_axes"] = spec.dynamic
    elif spec.dynamic:
        options["dynamic_shapes"] = {name: spec.dynamic.get(name) for name in inputs}
    if exporter == "dynamo":
        options |= {"external_data": False, "verbose": False, "optimize": True}
    torch.onnx.export(module, tuple(inputs.values()), path, **options)
    strip(path)
    with torch.no_grad():
        results = module(*inputs.values())
    outputs = results if isinstance(results, tuple) else (results,)
    feeds = {name: value.numpy() for name, value in inputs.items()}
    wanted = {name: each.numpy() for name, each in zip(spec.outputs, outputs, strict=True)}
    found = onnxruntime.InferenceSession(path).run(list(wanted), feeds)
    for (name, expected), array in zip(wanted.items(), found, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-5, err_msg=name)
    arrays = {f"in.{name}": array for name, array in feeds.items()}
    arrays |= {f"out.{name}": array for name, array in wanted.items()}
    np.savez_compressed(path.parent / f"{spec.name}.npz", **arrays)


def strip(path: Path) -> None:
    """Drop what tells of the machine and of torch's source lines, and is larger than the rest."""
    model = ir.load(path)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        for node in function:
            node.metadata_props.clear()
            node.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    proto = ir.to_proto(model)
    proto.producer_version = ""
    path.write_bytes(proto.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))


def main(names: list[str]) -> int:
    """Export the modules called ``names``, or all of them; print what could not be exported."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    FOLDER.mkdir(exist_ok=True)
    failures: dict[str, str] = {}
    for spec in SPECS:
        if names and spec.name not in names:
            continue
        for exporter in OPSETS:
            path = FOLDER / f"{spec.name}.{exporter}.onnx"
            try:
                export(spec, exporter, path)
                print(f"{path.name}: {path.stat().st_size} bytes", flush=True)
            except Exception as error:
                path.unlink(missing_ok=True)
                failures[f"{spec.name}.{exporter}"] = str(error).strip().splitlines()[0]
    if failures:
        print(json.dumps(failures, indent=1))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
