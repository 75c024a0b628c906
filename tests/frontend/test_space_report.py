"""The report on channel spaces: verdicts, reasons, and lines for those that repeat."""

import json
import re

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from support.graphs import apply, parse

from bitfold.frontend.cli.main import cli
from bitfold.frontend.inspection import inspect_spaces
from bitfold.frontend.space_lines import fold, glob
from bitfold.frontend.text_samples import causal_feeds
from bitfold.models import tiny
from bitfold.passes.transform.ln_to_rms import LnToRms

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def words(space):
    return {change: verdict.word for change, verdict in space.verdicts.items()}


def test_a_decoder():
    report = inspect_spaces(tiny.TINY["decoder"](0))
    stream, *_ = report.spaces
    assert (stream.kind, stream.size, len(stream.readers)) == ("residual stream", 64, 11)
    assert words(stream) == {
        "rotate": "after fold-norm-gain",
        "scale": "yes, 5 parts",
        "permute": "yes",
        "center": "",
    }
    lines = fold(report.spaces)
    assert [(line.title, line.channels) for line in lines] == [
        ("residual stream", "64"),
        ("query-key pair, 2x", "2 x 16"),
        ("values per head, 2x", "2 x 16"),
        ("gated hidden layer, 2x", "128"),
        ("model output", "256"),
    ]
    values, hidden = lines[2], lines[3]
    assert values.name == "/model/layers.*/self_attn/v_proj/MatMul"
    assert values.spaces[0].caches == ("past_key_values.0.value",)
    assert values.why_not() == []
    assert words(hidden.spaces[0])["rotate"] == "online"
    told = "rotate: Mul /model/layers.*/mlp/Mul multiplies it by another activation"
    assert told in hidden.why_not()


def test_a_folded_gain_is_no_obstacle():
    model = parse(
        """g (int64[b, s] ids) => (float[b, s, 8] y) {
            e = Gather(table, ids)
            n = RMSNormalization<axis = -1>(e, ones)
            d = MatMul(n, inner)
            h = Add(e, d)
            o = RMSNormalization<axis = -1>(h, ones)
            y = MatMul(o, head)
        }""",
        table=f(20, 16),
        ones=np.ones(16, np.float32),
        inner=f(16, 16),
        head=f(16, 8),
    )
    assert words(inspect_spaces(model).spaces[0])["rotate"] == "yes"


def test_what_no_pass_takes_away_is_no_after():
    """A norm's gain can be folded, but the stream itself is read by what nobody knows."""
    model = parse(
        """g (int64[b, s] ids) => (float[b, s, 8] y, float[b, s, 16] z) {
            e = Gather(table, ids)
            n = RMSNormalization<axis = -1>(e, gain)
            d = MatMul(n, inner)
            h = Add(e, d)
            z = CumSum(h, axis)
            o = RMSNormalization<axis = -1>(h, gain)
            y = MatMul(o, head)
        }""",
        table=f(20, 16),
        gain=f(16),
        inner=f(16, 16),
        head=f(16, 8),
        axis=np.array(1),
    )
    stream = inspect_spaces(model).spaces[0]
    assert words(stream)["rotate"] == "online"
    assert stream.ends[0].op == "CumSum"
    assert stream.verdicts["permute"].why[0].op == "CumSum"


@pytest.mark.parametrize(("first", "word"), [("e = Identity(c)", "yes"), ("e = Gelu(c)", "online")])
def test_a_stream_that_ln_to_rms_centers(first, word):
    model = parse(
        f"""g (float[b, s, 8] x) => (float[b, s, 8] y) {{
            c = MatMul(x, w)
            {first}
            n = LayerNormalization<axis = -1>(e, gain)
            d = MatMul(n, inner)
            h = Add(e, d)
            o = LayerNormalization<axis = -1>(h, gain)
            y = MatMul(o, head)
        }}""",
        w=f(8, 16),
        gain=f(16),
        inner=f(16, 16),
        head=f(16, 8),
    )
    found = [words(space)["center"] for space in inspect_spaces(model).spaces]
    assert found[0] == word
    assert apply(LnToRms(), model).status == "applied"


def test_globs():
    assert glob(["a.1/b.2", "a.10/b.2"]) == "a.*/b.2"
    assert glob(["only"]) == "only"


def test_command(tmp_path):
    path = tmp_path / "m.onnx"
    ir.save(tiny.TINY["decoder"](0), path)
    shown = CliRunner().invoke(cli, ["inspect", str(path), "--spaces"])
    assert shown.exit_code == 0
    assert "values per head, 2x" in shown.stdout
    assert "8 channel spaces in" in shown.stdout
    each = CliRunner().invoke(cli, ["inspect", str(path), "--spaces", "--all"]).stdout
    assert each.count("values per head") == 2
    assert "2x" not in each
    told = json.loads(CliRunner().invoke(cli, ["inspect", str(path), "--spaces", "--json"]).stdout)
    assert len(told["spaces"]) == 8
    pair = told["spaces"][1]
    assert pair["verdicts"]["rotate"]["why"][0]["op"] == "RotaryEmbedding"
    assert pair["writers"] == [
        "/model/layers.0/self_attn/q_proj/MatMul",
        "/model/layers.0/self_attn/k_proj/MatMul",
    ]


FIGURES = {
    "places",
    "tokens",
    "kurtosis_median",
    "kurtosis_max",
    "peak_ratio_median",
    "peak_ratio_max",
    "utilization",
    "massive",
    "massive_channels",
}


def saved(folder, token=None):
    """The tiny decoder and inputs for it, as files; one token's embedding has a massive channel."""
    model = tiny.TINY["decoder"](0)
    if token is not None:
        (table,) = [v for v in model.graph.initializers.values() if list(v.shape) == [256, 64]]
        heavy = table.const_value.numpy() * 0.1
        heavy[token, 29] = 1e6
        table.const_value = ir.tensor(heavy, name=table.name)
    ir.save(model, folder / "m.onnx")
    ids = np.arange(40, 64).reshape(1, -1)
    feeds = causal_feeds(model, ids, {})
    np.savez(folder / "x.npz", **feeds)
    return str(folder / "m.onnx"), str(folder / "x.npz")


def invoke(*arguments):
    return CliRunner().invoke(cli, ["inspect", *arguments])


def test_statistics_as_json(tmp_path):
    model, samples = saved(tmp_path, token=44)
    told = json.loads(invoke(model, "--spaces", "--samples", samples, "--json").stdout)
    assert told["samples"] == 1
    assert set(told["sinks"]) == {"attentions", "tokens"}
    assert told["sinks"]["attentions"] == 2
    kinds = {space["kind"]: space["statistics"] for space in told["spaces"]}
    assert kinds["model output"] is kinds["query-key pair"] is None
    stream = kinds["residual stream"]
    assert set(stream) == set(kinds["values per head"]) == FIGURES
    assert (stream["places"], stream["tokens"]) == (5, 24)
    # One token of 24, in front of five norms; what the layers make of it comes after.
    assert next(iter(stream["massive_channels"].items())) == ("29", 5)
    assert stream["massive"] == sum(stream["massive_channels"].values())
    assert 64 > stream["kurtosis_max"] > 50
    assert 0 < stream["utilization"] < 1


def test_statistics_in_tables(tmp_path):
    model, samples = saved(tmp_path, token=44)
    shown = invoke(model, "--spaces", "--samples", samples, "--samples", samples)
    assert shown.exit_code == 0, shown.output
    changes, statistics = shown.stdout.split("what linear ops read, on 2 samples")
    assert "query-key pair, 2x" in changes
    rows = {line[:22].strip(): line.split() for line in statistics.splitlines()}
    assert re.search(r" \d+ in 29\b", " ".join(rows["residual stream"]))
    assert rows["values per head, 2x"][-1] == "0"
    assert "query-key pair, 2x" not in rows
    assert statistics.splitlines()[-1].endswith("of 4 attentions") or "no attention" in statistics


def test_without_samples_nothing_is_measured(tmp_path):
    model, samples = saved(tmp_path)
    plain = invoke(model, "--spaces")
    measured = invoke(model, "--spaces", "--samples", samples)
    assert measured.stdout.startswith(plain.stdout)
    told = json.loads(invoke(model, "--spaces", "--json").stdout)
    assert told["samples"] == 0
    assert told["sinks"] is None
    assert {space["statistics"] for space in told["spaces"]} == {None}


def test_the_picture_shows_the_figures_of_a_space(tmp_path):
    model, samples = saved(tmp_path, token=44)
    page = tmp_path / "p.html"
    assert invoke(model, "--samples", samples, "--picture", str(page)).exit_code == 0
    text = page.read_text("utf-8")
    assert re.search(r"massive activations: \d+ in 29\b", text)
    assert re.search(r"kurtosis within a token: \S+, at most \d+", text)


def test_samples_that_are_missing_or_out_of_place(tmp_path):
    model, samples = saved(tmp_path)
    found = invoke(model, "--spaces", "--statistics")
    assert found.exit_code != 0
    assert "give some with --samples" in found.output
    for options in (["--samples", samples], ["--statistics"]):
        found = invoke(model, *options)
        assert found.exit_code == 2
        assert "go with --spaces or --picture" in found.output
    np.savez(tmp_path / "bad.npz", input_ids=np.zeros((1, 3), np.int64))
    found = invoke(model, "--spaces", "--samples", str(tmp_path / "bad.npz"))
    assert found.exit_code != 0
    assert "sample 0" in found.output


def test_statistics_on_samples_of_the_models_own(tmp_path, monkeypatch):
    model, samples = saved(tmp_path)
    with np.load(samples) as arrays:
        feeds = dict(arrays)
    monkeypatch.setattr("bitfold.frontend.real_samples.task_samples", lambda *_: [feeds, feeds])
    told = json.loads(invoke(model, "--spaces", "--statistics", "--json").stdout)
    assert told["samples"] == 2
    assert told["spaces"][0]["statistics"]["tokens"] == 48
