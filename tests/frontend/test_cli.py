"""The command line: help, output that machines can read, one-line errors and exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from support.language_models import CONFIG, write_llama, write_tokenizer

from bitfold.frontend.cli import output
from bitfold.frontend.cli.main import COMMANDS, cli
from bitfold.frontend.convert import convert
from bitfold.frontend.inspection import inspect
from bitfold.frontend.sources import build_trained
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.presets import PRESETS
from bitfold.passes.registry import PASSES
from bitfold.runtime import errors

QUANTIZE = "quantize{weights=int4 group=16}, lower"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "float"
    folder.mkdir()
    write_tokenizer(folder, CONFIG.vocab)
    return write_llama(folder / "llama.onnx")


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    ir.save(TINY["cnn"](0), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "cnn.npz", **sample_feeds("cnn", 0))  # type: ignore[arg-type]
    return tmp_path / "cnn.onnx"


def run(*arguments: Any, code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(cli, [str(each) for each in arguments], input=stdin)
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def run_json(*arguments: Any) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command's words, groups included."""
    found = [path]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            found += leaves(inner, (*path, name))
    return found


@pytest.mark.parametrize("words", leaves(cli), ids=" ".join)
def test_help_has_examples_that_parse(words: tuple[str, ...]) -> None:
    text = run(*words, "--help").stdout
    assert text.startswith("Usage:")
    assert "Examples:" in text
    examples = text.split("Examples:")[1].strip().splitlines()
    assert any("bitfold " + " ".join(words) in line for line in examples)


def test_all_commands_are_there() -> None:
    expected = "convert inspect verify eval bench passes models generate demo"
    assert {command.name for command in COMMANDS} == set(expected.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner;"
        "from bitfold.frontend.cli.main import cli;"
        "assert CliRunner().invoke(cli, ['convert', '--help']).exit_code == 0;"
        "print([m for m in ('onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'scipy', 'rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_convert_then_use(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    made = run_json(
        "convert", model, "-o", out, "--passes", QUANTIZE, "--report", tmp_path / "report",
        "--exclude", "*q_proj*",
    )  # fmt: skip
    assert made["bytes"] < made["bytes_before"]
    assert [entry["name"] for entry in made["report"]["passes"]] == ["quantize", "lower"]
    skipped = made["report"]["passes"][0]["skips"]
    assert sum("q_proj" in each["site"] for each in skipped) == CONFIG.layers
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == made["report"]
    assert (tmp_path / "tokenizer.json").is_file()

    run("convert", model, "-o", out, code=errors.OutputError.exit_code)
    text = run("convert", model, "-o", out, "--force", "--passes", QUANTIZE).stdout
    assert "smaller" in text

    again = tmp_path / "again.onnx"
    run("convert", model, "-o", again, "--recipe", out)
    data = [path.with_name(f"{path.name}.data").read_bytes() for path in (out, again)]
    assert data[0] == data[1]

    verified = run_json("verify", model, out)
    assert 0 < verified["kl"] < 5
    run("verify", model, out, "--max-kl", "1e-9", code=errors.VerificationError.exit_code)

    facts = run_json("inspect", out, "--no-plan")
    assert facts["operators"]["bitfold.LowBitMatMul"] > 0
    assert "bitfold.recipe" in facts["metadata"]
    assert run("inspect", out, "--no-plan").stdout


def test_convert_checks_on_the_samples_it_is_given(cnn: Path, tmp_path: Path) -> None:
    """The effect that is reported is the one on those inputs."""
    feeds = sample_feeds("cnn", 0)
    figures = []
    for number, scale in enumerate((1.0, 1.0, 0.0)):
        samples = tmp_path / f"{number}.npz"
        np.savez(samples, **{name: array * scale for name, array in feeds.items()})  # type: ignore[arg-type]
        made = run_json(
            "convert", cnn, "-o", tmp_path / f"{number}.onnx", "--preset", "w4a8",
            "--samples", samples,
        )  # fmt: skip
        figures.append(made["report"]["total"])
    assert figures[0] == figures[1] != figures[2]


def test_convert_prints_what_passes_note(model: Path, tmp_path: Path) -> None:
    made = run_json("convert", model, "-o", tmp_path / "a.onnx", "--preset", "float")
    notes = [(e["name"], note) for e in made["report"]["passes"] for note in e["notes"]]
    assert notes
    shown = run("convert", model, "-o", tmp_path / "b.onnx", "--preset", "float").stdout
    for name, note in notes:
        assert f"{name}: {note}\n" in shown
    assert "padded on the right" in run("passes", "fuse-attention").stdout


def test_an_exclusion_holds_although_merging_renames(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = run("convert", model, "-o", out, "--exclude", "*q_proj*", "--exclude", "*absent*")
    assert result.stderr == "warning: exclude: no site's name or weight matches '*absent*'\n"
    names = [s["name"] for s in run_json("inspect", out, "--no-plan")["sites"]
             if s["scheme"] == "float"]  # fmt: skip
    assert len(names) == CONFIG.layers
    assert all("q_proj" in name for name in names)


@pytest.mark.parametrize(
    ("weight", "fails"),
    [
        (np.array([["a", "b"], ["c", "d"]], dtype=object), ""),
        (np.arange(4096).reshape(64, 64), ""),
        (np.full((64, 64), np.nan, np.float32), "4096 NaN"),
    ],
)
def test_inspect_describes_odd_weights(weight: Any, fails: str, tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(weight, "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["w", "i"], ["y"], name="look-up")],
        "g",
        [onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["n"])],
        [onnx.helper.make_tensor_value_info("y", tensor.data_type, ["n", weight.shape[1]])],
        [tensor],
    )
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "m.onnx"
    )
    found = run_json("inspect", tmp_path / "m.onnx")
    assert fails in found["plan_error"]
    assert bool(found["plan_error"]) == bool(fails) == (not found["plan"])
    assert found["recipe"]
    for site in found["sites"]:
        assert (site["statistics"] is None) == (weight.dtype != np.float32)
    shown = run("inspect", tmp_path / "m.onnx").stdout
    assert ("the recipe fails: " in shown) == bool(fails)


def test_verify_equal_models(model: Path) -> None:
    found = run_json("verify", model, model, "--max-kl", "0", "--min-top1", "1")
    assert found["max_error"] == 0
    assert found["sqnr_db"] is None  # infinite: JSON has no word for it
    text = run("verify", model, model).stdout
    assert "inf dB" in text


def test_inspect_tells_the_plan(model: Path) -> None:
    facts = run_json("inspect", model, "--passes", QUANTIZE)
    assert facts["plan"][0]["name"] == "quantize"
    assert len(facts["plan"][0]["changes"]) > 0
    assert "quantize" in run("inspect", model, "--passes", QUANTIZE, "--all").stdout


def test_eval_scores_text(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 10)
    found = run_json(
        "eval", model, "--reference", model, "--text", text, "--chunk", "32", "--chunks", "2"
    )
    assert found["kind"] == "text"
    assert found["score"]["kl"] == pytest.approx(0, abs=1e-9)
    assert found["score"]["top1"] == 1
    assert found["settings"]["chunks"] == 2
    other = write_llama(tmp_path / "other.onnx", seed=5)
    shown = run("eval", model, "--reference", other, "--text", text, "--chunk", "32").stdout
    assert "perplexity" in shown


def test_eval_compares_outputs(cnn: Path) -> None:
    inputs = cnn.with_suffix(".npz")
    found = run_json("eval", cnn, "--reference", cnn, "--inputs", inputs)
    assert found["kind"] == "outputs"
    assert all(each["max_error"] == 0 for each in found["outputs"].values())
    assert "cosine" in run("eval", cnn, "--reference", cnn).stdout
    run("eval", cnn, code=errors.CalibrationError.exit_code)


def test_eval_by_a_task(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the cat sat on the mat " * 50
    monkeypatch.setattr("bitfold.frontend.tasks.text_generation.default_text", lambda show: text)
    options = ("eval", model, "--reference", model, "--task", "text-generation", "--limit", 1)
    found = run_json(*options)
    assert found["kind"] == "task"
    assert found["task"]["score"] == found["task"]["reference"]
    assert found["task"]["score"]["samples"] == 1
    shown = run(*options).stdout
    assert "Lee perplexity" in shown
    assert "outputs on 1 of its inputs" in shown
    run("eval", model, "--task", "cooking", code=errors.UnsupportedError.exit_code)


INPUTS, TASK, TEXT = ("--inputs", "{cnn}.npz"), ("--task", "ocr"), ("--text", "{text}")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cnn", (*TASK, *INPUTS), "--inputs does not apply: the task ocr"),
        ("cnn", (*TASK, *TEXT), "--text does not apply: the task ocr has its own data"),
        ("cnn", (*TASK, "--companion", "{cnn}"), "--companion does not apply: the task ocr is of"),
        ("cnn", TEXT, "--text does not apply: the model is no language model"),
        ("cnn", ("--chunks", 2), "--chunks does not apply: the model is no language model"),
        ("cnn", (*INPUTS, "--chunk", 64), "--chunk does not apply: outputs are compared on the in"),
        ("cnn", ("--limit", 2), "--limit does not apply: no task is measured"),
        ("llama", ("--limit", 2), "--limit does not apply: no task is measured"),
        ("llama", ("--companion", "{cnn}"), "--companion does not apply: no task is measured"),
        ("llama", (*INPUTS, *TEXT), "--text does not apply: outputs are compared on the inputs"),
    ],
)
def test_eval_refuses_options_that_do_not_apply(
    name: str, options: tuple[Any, ...], said: str, model: Path, cnn: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 10)
    names = {"{cnn}.npz": cnn.with_suffix(".npz"), "{cnn}": cnn, "{text}": text}
    path = cnn if name == "cnn" else model
    given = [names.get(each, each) for each in options]
    result = run("eval", path, "--reference", path, *given, code=2)
    assert said in " ".join(result.stderr.split())


def test_bench(model: Path) -> None:
    options = ("--threads", 1, "--prefill", 8, "--decode", 4, "--rounds", 1)
    found = run_json("bench", model, "--vs", model, *options)
    assert found["divergence"]["max_error"] == 0
    assert found["models"][0]["decode_tps"] > 0
    assert found["settings"]["tokens"] == "text"
    shown = run("bench", model, *options).stdout
    assert "prefill" in shown
    assert "ratio" not in shown


def test_bench_reads_a_text(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abc abc")
    found = run_json(
        "bench", model, "--text", tmp_path / "t.txt", "--threads", 1, "--prefill", 20,
        "--decode", 2, "--rounds", 1,
    )  # fmt: skip
    assert found["settings"]["tokens"] == "given"
    assert found["settings"]["prefill"] == 20


def test_generate(model: Path) -> None:
    found = run_json("generate", model, "the cat", "--max-tokens", 8)
    shown = run("generate", model, "the cat", "--max-tokens", 8).stdout
    assert shown == f"the cat{found['text']}\n"
    assert run("generate", model, "-", "--max-tokens", 8, stdin="the cat\n").stdout == shown
    sampled = ("generate", model, "a", "--temperature", 2, "--max-tokens", 12)
    assert run(*sampled, "--seed", 3).stdout == run(*sampled, "--seed", 3).stdout
    assert len({run(*sampled, "--seed", seed).stdout for seed in range(4)}) > 1


def test_passes_come_from_the_registry() -> None:
    found = run_json("passes")
    assert [each["name"] for each in found["passes"]] == [each.name for each in PASSES]
    assert found["presets"] == PRESETS
    shown = run("passes").stdout
    assert all(each.name in shown for each in PASSES)
    for each in PASSES:
        facts = run_json("passes", each.name)
        assert facts["promise"] in ("exact", "lossy")
        assert facts["summary"]
        run("passes", each.name)
    options = {option["name"]: option for option in run_json("passes", "quantize")["options"]}
    assert options["weights"]["default"] == "int4"


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "cache"))
    names = [each["name"] for each in run_json("models", "list")]
    assert {"trained", "smollm2-135m", "lee-background"} <= set(names)
    assert "trained" in run("models", "list").stdout
    path = Path(run("models", "build", "trained").stdout.strip())
    assert path == build_trained()
    assert path.is_relative_to(tmp_path)
    assert path.with_name("tokenizer.json").is_file()
    run("models", "fetch", "nothing", code=errors.UnsupportedError.exit_code)


def test_a_catalogue_name_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "cache"))
    found = run_json("generate", "trained", "The statement", "--max-tokens", 12)
    assert found["text"].strip()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["convert", "absent", "-o", "x.onnx"], errors.ModelError, "trained"),
        (["convert", "{model}", "-o", "x.onnx", "--preset", "w9"], errors.RecipeError, "w4a8"),
        (["convert", "{model}", "-o", "x.onnx", "--passes", "quantise"], errors.RecipeError,
         "quantize"),
        (["convert", "{model}", "-o", "x.onnx", "--preset", "w4a8", "--passes", "lower"],
         errors.RecipeError, "preset and passes"),
        (["convert", "{model}", "-o", "no/where.onnx"], errors.OutputError, "no"),
        (["convert", "{model}", "-o", "x.onnx", "--samples", "{text}"],
         errors.CalibrationError, ""),
        (["convert", "{model}", "-o", "x.onnx", "--target", "bogus"], errors.RecipeError,
         "expected one of native, ort, portable, found 'bogus'"),
        (["convert", "{model}", "-o", "x.onnx", "--passes", "canonicalize", "--target", "ort"],
         errors.RecipeError, "target"),
        (["inspect", "{text}"], errors.UnsupportedError, "importer"),
        (["generate", "{model}", "a", "--top-p", "2"], errors.UnsupportedError, "top_p"),
        (["generate", "{model}", ""], errors.CalibrationError, "empty"),
        (["passes", "nothing"], errors.RecipeError, "nothing"),
        (["demo", "--offline", "--preset", "w9"], errors.RecipeError, "w9"),
    ],
)  # fmt: skip
def test_errors_take_one_line(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[errors.BitfoldError],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    names = {"{model}": str(model), "{text}": str(tmp_path / "text.txt")}
    result = run(*(names.get(each, each) for each in arguments), code=error.exit_code)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    assert said in result.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_eval_names_a_missing_data_file(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    (tmp_path / "m.data").unlink()
    for arguments in ([tmp_path / "m.onnx"], [model, "--reference", tmp_path / "m.onnx"]):
        result = run("eval", *arguments, code=errors.ModelError.exit_code)
        assert "is missing" in result.stderr
        assert "beside the model" in result.stderr


def test_usage_errors_exit_with_2(model: Path) -> None:
    run("convert", model, code=2)
    run("nonsense", code=2)
    run("bench", model, "--threads", 0, code=2)
    run("eval", model, "--text", "absent.txt", code=2)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in run("inspect", "absent", code=3).stderr
    monkeypatch.setenv("BITFOLD_DEBUG", "1")
    assert "Traceback" in run("inspect", "absent", code=3).stderr


def test_interrupt_and_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_(error: BaseException) -> Any:
        def replacement(*_: Any, **__: Any) -> Any:
            raise error

        return replacement

    monkeypatch.setattr("bitfold.frontend.sources.find_model", raise_(KeyboardInterrupt()))
    assert "Traceback" not in run("inspect", "x", code=130).stderr
    monkeypatch.setattr("bitfold.frontend.sources.find_model", raise_(ZeroDivisionError("oh")))
    assert "ZeroDivisionError: oh" in run("inspect", "x", code=1).stderr


def test_python_m_bitfold() -> None:
    command = [sys.executable, "-m", "bitfold", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bitfold, version ")


def test_a_pass_is_described_once() -> None:
    shown = CliRunner().invoke(cli, ["passes", "quantize"])
    assert shown.exit_code == 0
    assert "Attributes:" not in shown.stdout
    assert "1. A weight that several sites share" in shown.stdout
    (line,) = [line for line in shown.stdout.splitlines() if "type that scales" in line]
    assert line.split()[:2] == ["scales", "f16"]


def test_piped_tables_have_no_blank_lines_or_ends() -> None:
    shown = CliRunner().invoke(cli, ["passes"])
    lines = shown.stdout.splitlines()
    assert len(lines) > 10
    assert all(line and line == line.rstrip() for line in lines)


def test_names_and_figures_stay_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    table = output.make_table("pass", "status", "changed", "effect", right="2")
    table.add_row("fold-batch-norm-of-convs", "unchanged", "1234567890", "word " * 20)
    output.print_table(table)
    text = terminal.getvalue()
    assert "fold-batch-norm-of-convs" in text
    assert "1234567890" in text
    assert output.is_narrow()


def test_inspect_lists_native_convolutions_and_offers_no_plan_for_them(tmp_path: Path) -> None:
    model = tmp_path / "cnn.onnx"
    ir.save(TINY["cnn"](0), model)
    before = inspect(model, plan=False).sites
    made = convert(model, preset="w8a8", verify="off").model
    after = inspect(made)
    shapes = [
        sorted((site.kind.replace("gemm", "matmul"), site.rows, site.columns) for site in sites)
        for sites in (before, after.sites)
    ]
    assert shapes[0] == shapes[1]
    assert sum(kind == "conv" for kind, _, _ in shapes[0]) > 2
    assert after.low_bit
    assert not after.plan
    ir.save(made, tmp_path / "low.onnx")
    shown = run("inspect", tmp_path / "low.onnx").stdout
    assert "already low-bit: convert refuses it" in shown
    assert not inspect(made, preset="float").low_bit


def test_inspect_takes_a_target_and_exclusions(tmp_path: Path) -> None:
    model = tmp_path / "bert.onnx"
    ir.save(TINY["bert"](0), model)
    told = run_json("inspect", model, "--target", "portable", "--exclude", "*intermediate*")
    assert "target=portable" in told["recipe"]
    skips = [note["text"] for entry in told["plan"] for note in entry["skips"]]
    assert any("exclude" in text for text in skips)


def test_inspect_cuts_long_metadata(tmp_path: Path) -> None:
    model = TINY["cnn"](0)
    model.metadata_props["labels"] = "\n".join(f"label {n}" for n in range(1000))
    ir.save(model, tmp_path / "m.onnx")
    shown = run("inspect", tmp_path / "m.onnx", "--no-plan").stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("labels: ")]
    assert len(line) < 180
    assert "9889 characters" in line
    told = run_json("inspect", tmp_path / "m.onnx", "--no-plan")
    assert told["metadata"] == model.metadata_props
