"""Time a language model's low-bit forms, and llama.cpp on the file that it came from, in turns.

Run from anywhere::

    python tests/benchmarks/bench_decoders.py [--presets w4a8 w8a8] [--threads 2] [--json out.json]

Each form runs in a process of its own; llama.cpp takes part where ``llama_cpp`` is installed
(the extra ``bench``), on the file that ``--gguf`` names (that of the catalogue's SmolLM2
otherwise), brought to ``--llama-type`` by llama.cpp itself.  Figures are medians over
rounds.  Ours computes the logits of every token of the prompt, llama.cpp those of the last one;
the cosine is that of these to the float model's.

Then where the time goes, operator by operator, from ONNX Runtime's profile, beside the roofline:
the time that the weights' bytes take to read, or the products at the rate of int8 ones, whichever
is longer, both measured on this machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from benchmarks.kernels.machine import Machine  # noqa: E402

from bitfold.frontend.bench_process import BenchProcess  # noqa: E402
from bitfold.frontend.bench_tasks import text_tokens  # noqa: E402
from bitfold.frontend.convert import convert  # noqa: E402
from bitfold.frontend.machine import describe_machine  # noqa: E402
from bitfold.frontend.op_times import op_times  # noqa: E402
from bitfold.frontend.sources import find_model  # noqa: E402
from bitfold.models.catalogue import fetch  # noqa: E402
from bitfold.runtime.session import Session  # noqa: E402

MATMUL = "LowBitMatMul"
PROMPT_SECONDS = 0.3
"""How long a round repeats a prompt."""


class Ours:
    """One of our forms, or the float model."""

    def __init__(self, path: Path, threads: int) -> None:
        self._process = BenchProcess(path, threads, True)
        self._process.call("load")

    def prefill(self, tokens: list[int]) -> float:
        """Seconds of a prompt."""
        taken = self._process.call("prefill", tokens=tokens, seconds=PROMPT_SECONDS)
        return float(statistics.median(taken))

    def decode(self, tokens: list[int], context: int) -> float:
        """Seconds a token."""
        taken = self._process.call("decode", tokens=tokens, context=context)
        return sum(taken) / len(taken)

    def last_logits(self, tokens: list[int]) -> np.ndarray:
        """Logits behind the last token."""
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            self._process.call("logits", tokens=tokens, file=file.name)
            with np.load(file.name) as arrays:
                return np.array(arrays["logits"][-1])

    def close(self) -> None:
        """End the process."""
        self._process.close()


class LlamaCpp:
    """llama.cpp on a GGUF file, in this process."""

    def __init__(self, path: Path, threads: int, longest: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        self._model = llama_cpp.Llama(
            str(path),
            n_ctx=longest,
            n_batch=longest,
            n_ubatch=longest,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def _eval(self, tokens: list[int]) -> float:
        begin = time.perf_counter()
        self._model.eval(tokens)
        self._library.llama_get_logits(self._model.ctx)  # waits for the result
        return time.perf_counter() - begin

    def prefill(self, tokens: list[int]) -> float:
        """Seconds of a prompt."""
        taken: list[float] = []
        while sum(taken) < PROMPT_SECONDS:
            self._model.reset()
            taken.append(self._eval(tokens))
        return statistics.median(taken)

    def decode(self, tokens: list[int], context: int) -> float:
        """Seconds a token."""
        self._model.reset()
        if context:
            self._eval(tokens[:context])
        return statistics.mean(self._eval([token]) for token in tokens[context:])

    def last_logits(self, tokens: list[int]) -> np.ndarray:
        """Logits behind the last token."""
        self._model.reset()
        self._eval(tokens)
        found = self._library.llama_get_logits(self._model.ctx)
        return np.array(np.ctypeslib.as_array(found, (self._model.n_vocab(),)))

    def close(self) -> None:
        """Free the model."""
        self._model.close()


def requantized(gguf: Path, name: str, folder: Path) -> Path:
    """``gguf`` in another of llama.cpp's types, written by llama.cpp: a new file in ``folder``."""
    import llama_cpp
    from llama_cpp._logger import set_verbose

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    options.allow_requantize = True
    result = folder / f"{gguf.stem.rpartition('.')[0]}.{name}.gguf"
    set_verbose(False)
    names = (str(each).encode() for each in (gguf, result))
    if llama_cpp.llama_model_quantize(*names, ctypes.byref(options)):
        raise SystemExit(f"llama.cpp cannot bring {gguf} to {name}")
    return result


@contextmanager
def subjects(
    forms: dict[str, Path], gguf: Path | None, threads: int, longest: int
) -> Iterator[dict[str, Ours | LlamaCpp]]:
    """Everything that is timed, by name."""
    found: dict[str, Ours | LlamaCpp] = {}
    try:
        for name, path in forms.items():
            found[name] = Ours(path, threads)
        if gguf:
            try:
                found[f"llama.cpp {gguf.stem.rpartition('.')[2]}"] = LlamaCpp(
                    gguf, threads, longest
                )
            except ImportError:
                print("llama.cpp: not installed (pip install llama-cpp-python)")
        yield found
    finally:
        for each in found.values():
            each.close()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def time_all(
    runs: dict[str, Ours | LlamaCpp], tokens: list[int], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each of ``runs``, the first of which is the float model."""
    prompt, steps = tokens[: options.prefill], tokens[: options.context + options.decode]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(-1, options.rounds):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            each = runs[name].prefill(prompt), runs[name].decode(steps, options.context)
            if turn >= 0:
                seconds[name].append(each)
    logits = {name: run.last_logits(prompt) for name, run in runs.items()}
    rows = []
    for name, taken in seconds.items():
        prefill, decode = (statistics.median(each) for each in zip(*taken, strict=True))
        row = {"form": name, "prefill": len(prompt) / prefill, "decode": 1 / decode}
        rows.append({**row, "cosine": cosine(logits[name], logits["float"])})
        print(
            f"{name:20} {row['prefill']:10.0f} {row['decode']:10.1f} {rows[-1]['cosine']:9.4f}",
            flush=True,
        )
    return rows


def weights_of(path: Path) -> tuple[int, int]:
    """Bytes of all packed weights with their scales, and their weights, head included."""
    model = onnx.load(str(path), load_external_data=False)
    sizes = {
        each.name: int(np.prod(each.dims))
        * onnx.helper.tensor_dtype_to_np_dtype(each.data_type).itemsize
        for each in model.graph.initializer
    }
    count = 0
    read = 0
    for node in model.graph.node:
        if node.op_type == MATMUL:
            given = {each.name: each.i for each in node.attribute}
            count += given["N"] * given["K"]
            read += sum(sizes.get(name, 0) for name in node.input)
    return read, count


def feeds_of(path: Path, tokens: list[int], context: int) -> dict[str, np.ndarray]:
    """Inputs of one run over ``tokens`` behind a cache of ``context`` others, all zeros."""
    total = context + len(tokens)
    feeds: dict[str, np.ndarray] = {}
    for value in Session(path, threads=1).inputs:
        if value.name == "input_ids":
            feeds[value.name] = np.array([tokens], value.dtype)
        elif value.name == "attention_mask":
            feeds[value.name] = np.ones((1, total), value.dtype)
        elif value.name == "position_ids":
            feeds[value.name] = np.arange(context, total, dtype=value.dtype)[None]
        else:
            _, heads, _, width = value.shape
            feeds[value.name] = np.zeros(
                (1, int(heads or 1), context, int(width or 1)), value.dtype
            )
    return feeds


def where_time_goes(
    name: str, path: Path, tokens: list[int], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of operator, milliseconds and, for the matmuls, the roofline's."""
    machine = Machine()
    read, count = weights_of(path)
    rate, peak = machine.read(read, options.threads), machine.int8(options.threads)
    rows = []
    for phase, length, context in (
        ("prefill", options.prefill, 0),
        ("decode", 1, max(options.context, 1)),
    ):
        times = op_times(path, feeds_of(path, tokens[:length], context), threads=options.threads)
        limit = max(read / rate, 2 * count * length / peak)
        print(f"\n{name}, {phase} of {length} behind {context}: {sum(times.values()) * 1e3:.2f} ms")
        for operator, seconds in sorted(times.items(), key=lambda each: -each[1])[:8]:
            roof = f"   roofline {limit * 1e3:.2f}" if operator == MATMUL else ""
            print(f"  {operator:32} {seconds * 1e3:9.3f} ms{roof}")
            row = {"form": name, "phase": phase, "operator": operator, "ms": seconds * 1e3}
            rows.append({**row, "roofline ms": limit * 1e3 if roof else None})
    return rows


def main() -> None:
    """Print the tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m", help="a name or an ONNX file")
    parser.add_argument("--presets", nargs="*", default=["w4a8", "w8a8"])
    parser.add_argument("--gguf", type=Path, help="what llama.cpp runs")
    parser.add_argument("--llama-type", default="Q4_0", help="empty for the file's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    path = find_model(options.model)
    gguf = options.gguf or (fetch(options.model) if options.model == "smollm2-135m" else None)
    facts = {**describe_machine(), "threads": options.threads, "rounds": options.rounds}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    with tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder:
        forms = {"float": path}
        for preset in options.presets:
            forms[preset] = Path(folder) / preset / "model.onnx"
            forms[preset].parent.mkdir()
            convert(path, forms[preset], preset=preset, verify="off")
        longest = max(options.prefill, options.context + options.decode)
        tokens, _ = text_tokens([path], None, longest, 0)
        if gguf and options.llama_type and find_spec("llama_cpp"):
            gguf = requantized(gguf, options.llama_type, Path(folder))
        print(f"{'form':20} {'prefill/s':>10} {'decode/s':>10} {'cosine':>9}")
        with subjects(forms, gguf, options.threads, longest) as runs:
            rows = time_all(runs, tokens, options)
        parts = [
            row
            for preset in options.presets
            for row in where_time_goes(preset, forms[preset], tokens, options)
        ]
    if options.json:
        found = {"machine": facts, "results": rows, "operators": parts}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
