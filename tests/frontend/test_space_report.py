"""The report on channel spaces: verdicts, reasons, and lines for those that repeat."""

import json

import numpy as np
import onnx_ir as ir
from click.testing import CliRunner
from support.graphs import parse

from bitfold.frontend.cli.main import cli
from bitfold.frontend.inspection import inspect_spaces
from bitfold.frontend.space_lines import fold, glob
from bitfold.models import tiny

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
