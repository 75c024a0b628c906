"""`bitfold demo`: convert a real language model and measure what it costs and what it gains."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitfold.frontend.bench import ModelTimes, bench, model_bytes
from bitfold.frontend.convert import convert
from bitfold.frontend.evaluate import default_text, evaluate
from bitfold.frontend.generate import generate
from bitfold.frontend.perplexity import TextScore
from bitfold.frontend.recipes import resolve_recipe
from bitfold.frontend.sources import build_trained, find_model
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.models.trained import eval_text
from bitfold.runtime.errors import BitfoldError, OutputError

MODEL = "smollm2-135m"
CHUNKS = 6
"""Chunks of 512 tokens that are scored: a part of the text, to be done in minutes."""
ROUNDS = 3
PROMPTS = {True: "The statement", False: "The capital of France is"}
"""The prompt for the small trained model (it read Python's documentation), and for the other."""


@dataclass
class DemoRow:
    """One model's figures; see `ModelTimes` and `TextScore`.

    Attributes:
        name: ``float`` or the preset.
        convert_seconds: time of the conversion, its checks included.
        ratios: against the float model in the same run; see `BenchResult`.
        text: what the model writes after the prompt.
    """

    name: str
    bytes: int
    perplexity: float
    kl: float | None
    top1: float | None
    prefill_tps: float
    decode_tps: float
    load_seconds: float
    peak_bytes: int
    text: str
    convert_seconds: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)


@dataclass
class DemoResult:
    """What the demo measured.

    Attributes:
        fallback: why the small trained model took the place of the real one, or None.
        text: what was scored.
        library: whether bitfold's kernels ran, and not the function bodies.
    """

    model: str
    fallback: str | None
    text: str
    prompt: str
    threads: int
    chunks: int
    library: bool
    seconds: float
    machine: dict[str, Any]
    rows: list[DemoRow]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def demo(
    *,
    presets: Sequence[str] = ("w4a8-mixed", "w8a8"),
    offline: bool = False,
    keep: Path | None = None,
    threads: int = 2,
    say: Callable[[str], None] = print,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> DemoResult:
    """Convert SmolLM2-135M with each preset and compare the results with the float model.

    Args:
        presets: presets to convert with.
        offline: use the small trained model that comes with bitfold, as where the other cannot
            be fetched.
        keep: a folder for the converted models; by default they are deleted.
        threads: threads inside an operator.
        say: takes each line of text that a person should see.

    Raises:
        RecipeError: there is no such preset.
        BitfoldError: a step failed.
    """
    start = time.perf_counter()
    for preset in presets:
        resolve_recipe(preset=preset)  # a wrong name shows before minutes are spent
    source, fallback = _source(offline, say, progress)
    TextTokenizer(source.parent)  # so does a package that is missing
    text, text_name = _text(fallback is not None, say, progress)
    prompt = PROMPTS[fallback is not None]
    say(f"float model: {source} ({model_bytes(source) / 1e6:.0f} MB)")
    rows: list[DemoRow] = []
    with _folder(keep) as folder:
        for preset in presets:
            output = folder / f"{source.parent.name.split('-')[0]}.{preset}.onnx"
            say(f"converting with {preset}")
            clock = time.perf_counter()
            convert(source, output, preset=preset, force=True, progress=progress)
            seconds = time.perf_counter() - clock
            say(f"measuring {preset} against float ({seconds:.0f} s to convert)")
            result = evaluate(
                output, source, text=text, chunks=CHUNKS, threads=threads, progress=progress
            )
            timed = bench(output, source, threads=threads, rounds=ROUNDS, progress=progress)
            assert result.score is not None
            if not rows:
                rows.append(_float_row(timed.models[1], result.score))
                rows[0].text = _continued(source, prompt, threads)
            row = _row(preset, timed.models[0], result.score)
            row.convert_seconds, row.ratios = seconds, timed.ratios or {}
            row.text = _continued(output, prompt, threads)
            rows.append(row)
    return DemoResult(
        model="trained" if fallback else MODEL,
        fallback=fallback,
        text=text_name,
        prompt=prompt,
        threads=threads,
        chunks=result.settings["chunks"],
        library=timed.models[0].library,
        seconds=time.perf_counter() - start,
        machine=timed.machine,
        rows=rows,
    )


def _source(
    offline: bool, say: Callable[[str], None], progress: Callable[[str, float], None]
) -> tuple[Path, str | None]:
    """The float model, and why it is not the real one."""
    if offline:
        return build_trained(progress), "asked for with --offline"
    say(f"fetching {MODEL} (about 100 MB, once)")
    try:
        return find_model(MODEL, progress), None
    except OutputError:
        raise  # a full disk is no reason to measure something else
    except BitfoldError as error:
        say(f"{MODEL} could not be fetched: {error}")
        say("falling back to the small model that comes with bitfold: figures are of that one")
        return build_trained(progress), str(error)


def _text(
    small: bool, say: Callable[[str], None], progress: Callable[[str, float], None]
) -> tuple[str, str]:
    """The text to score and its name."""
    if not small:
        try:
            return default_text(progress), "lee-background"
        except BitfoldError as error:
            say(f"the evaluation text could not be fetched ({error}): scoring on bitfold's own")
    return eval_text(), "Python's documentation"


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="bitfold-demo-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {keep}: {error.strerror or error}") from error
    yield keep


def _float_row(times: ModelTimes, score: TextScore) -> DemoRow:
    row = _row("float", times, score)
    row.kl = row.top1 = None
    row.perplexity = score.reference_perplexity or score.perplexity
    return row


def _row(name: str, times: ModelTimes, score: TextScore) -> DemoRow:
    return DemoRow(
        name=name,
        bytes=times.bytes,
        perplexity=score.perplexity,
        kl=score.kl,
        top1=score.top1,
        prefill_tps=times.prefill_tps or 0.0,
        decode_tps=times.decode_tps or 0.0,
        load_seconds=times.load_seconds,
        peak_bytes=times.peak_bytes,
        text="",
    )


def _continued(path: Path, prompt: str, threads: int) -> str:
    return "".join(generate(path, prompt, max_tokens=32, threads=threads))
