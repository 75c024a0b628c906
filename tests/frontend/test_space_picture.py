"""The picture of channel spaces: what it shows, and that it stands alone."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from support.browser import Browser, find_browser
from support.graphs import parse

from bitfold.frontend.cli.main import cli
from bitfold.frontend.inspection import PREPARED
from bitfold.frontend.report.space_picture import page
from bitfold.frontend.report.space_rows import lay_out
from bitfold.frontend.space_report import space_info
from bitfold.models import tiny
from bitfold.passes.analysis.spaces.survey import survey_spaces
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline


def picture(name, everything=False):
    with Context() as context:
        model, _ = Pipeline(PREPARED, context, verify="off").run(tiny.TINY[name](0))
    surveyed = survey_spaces(model)
    return lay_out(model, surveyed, [space_info(each) for each in surveyed], everything)


def test_bands_of_a_decoder():
    drawn = picture("decoder", everything=True)
    assert drawn.repeats == []
    stream = drawn.bands[0]
    assert (stream.label, stream.lane) == ("residual stream 64", 0)
    assert stream.may == "rotate after fold-norm-gain, scale in 5 parts, permute"
    assert sum(len(row.writes) for row in drawn.rows) == 2 * 7 + 2
    rows = {row.label: row for row in drawn.rows}
    bands = {number: band.label for number, band in enumerate(drawn.bands)}
    down = rows["mlp/down_proj"]
    assert [bands[n] for n in down.reads + down.writes] == [
        "gated hidden layer 128",
        "residual stream 64",
    ]


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_bands_hold_their_rows_and_share_no_lane(name):
    drawn = picture(name, everything=True)
    for row in drawn.rows:
        for number in (*row.reads, *row.writes, *row.carries):
            assert drawn.bands[number].first <= row.at <= drawn.bands[number].last
    for first in drawn.bands:
        for second in drawn.bands:
            apart = first.last < second.first or second.last < first.first
            assert first is second or apart or first.lane != second.lane


def test_layers_that_repeat_are_drawn_once():
    every, folded = picture("decoder", everything=True), picture("decoder")
    ((first, last, told),) = folded.repeats
    assert told == "comes 2 times"
    assert len(every.rows) - len(folded.rows) == last - first + 1


def folded(nodes, **constants):
    model = parse(f"g (float[b, s, 16] x) => (float[b, s, 4] y) {{ {nodes} }}", **constants)
    surveyed = survey_spaces(model)
    return lay_out(model, surveyed, [space_info(each) for each in surveyed])


def test_a_repeat_hands_over_what_it_writes():
    """Layers in a row, each with a space of its own: the last one's output is the first one's."""
    layers = [f"a{i} = MatMul(r{i}, w{i})\nr{i + 1} = Gelu(a{i})" for i in range(9)]
    weights = {f"w{i}": np.ones((16, 16), np.float32) for i in range(9)}
    head = np.ones((16, 4), np.float32)
    drawn = folded(
        "\n".join(["r0 = Identity(x)", *layers, "y = MatMul(r9, head)"]), head=head, **weights
    )
    assert drawn.repeats
    assert len(drawn.rows) < 10
    written = {number for row in drawn.rows for number in row.writes}
    read = {number for row in drawn.rows for number in row.reads}
    hidden = {number for number, band in enumerate(drawn.bands) if band.label.endswith(" 16")}
    assert hidden == read == hidden & written


def test_names_of_bands_that_start_together():
    wide = np.ones((16, 48), np.float32)
    drawn = folded(
        """a = MatMul(x, w)
           q, k, v = Split<axis = -1, num_outputs = 3>(a)
           t = Tanh(q)
           u = Relu(k)
           z = MatMul(t, head)
           e = MatMul(u, head2)
           s = Add(z, e)
           i = MatMul(v, head3)
           y = Add(s, i)""",
        w=wide,
        **{name: np.ones((16, 4), np.float32) for name in ("head", "head2", "head3")},
    )
    (row,) = [row for row in drawn.rows if len(row.writes) == 3]
    starting = [band for band in drawn.bands if band.first == row.at]
    assert len(starting) == 3
    shown = page("m", drawn, "")
    heights = re.findall(r'y="([\d.]+)"><tspan fill="[^"]+">\u25ae', shown)
    assert len(heights) == len(set(heights)) == len(drawn.bands)


def test_command(tmp_path):
    path, page = tmp_path / "m.onnx", tmp_path / "spaces.html"
    ir.save(tiny.TINY["decoder"](0), path)
    result = CliRunner().invoke(cli, ["inspect", str(path), "--picture", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    assert not re.search(r"(src|href)=|<script", text)
    assert "gated hidden layer, 2x" in text
    lost = CliRunner().invoke(
        cli, ["inspect", str(path), "--picture", str(tmp_path / "no" / "x.html")]
    )
    assert "cannot write" in lost.output


@pytest.mark.skipif(find_browser() is None, reason="no browser")
def test_a_browser_shows_it(tmp_path):
    path, page = tmp_path / "m.onnx", tmp_path / "spaces.html"
    ir.save(tiny.TINY["cnn"](0), path)
    assert CliRunner().invoke(cli, ["inspect", str(path), "--picture", str(page)]).exit_code == 0
    with Browser(find_browser(), tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.complaints() == []
        assert browser.requests() == [page.resolve().as_uri()]
        bands = browser.run(
            "[...document.querySelectorAll('.band rect')].map("
            "rect => rect.getBoundingClientRect().height)"
        )
        assert bands
        assert min(bands) > 5
        assert browser.run("getComputedStyle(document.querySelector('.mark')).strokeWidth") != "0px"
