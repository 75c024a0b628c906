"""Siblings merge into one op and a Split, in the order of their roles."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run, text_of

from bitfold.models import tiny
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.fuse.merge_siblings import MergeSiblings
from bitfold.runtime.errors import RecipeError

RNG = np.random.default_rng(0)
K = 12


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(model, feeds, item=None, status="applied"):
    before = run(model, feeds)
    entry = apply(item or MergeSiblings(), model)
    assert entry.status == status
    assert_same(before, run(model, feeds), 1e-6)
    return entry


def test_golden_gate_and_up():
    """Up comes first in the graph; the gate is the one that goes through Sigmoid."""
    model = parse(
        f"""g (float[b, s, {K}] x) => (float[b, s, 8] y) {{
            up = MatMul(x, w_up)
            gate = MatMul(x, w_gate)
            act = Sigmoid(gate)
            silu = Mul(gate, act)
            y = Mul(silu, up)
        }}""",
        w_up=f(K, 8),
        w_gate=f(K, 8),
    )
    for node, name in zip(model.graph, ("/mlp/up/MatMul", "/mlp/gate/MatMul"), strict=False):
        node.name = name
        node.inputs[1].name = name.removesuffix("/MatMul").replace("/", ".")[1:] + ".weight"
    check(model, {"x": f(2, 3, K)})
    merged = "/mlp/gate/MatMul+up/MatMul"
    assert text_of(model) == [
        f"{merged}_output_0 = MatMul(x, mlp.gate.weight+up.weight)",
        f"gate, up = Split({merged}_output_0, {merged}/sizes)",
        "act = Sigmoid(gate)",
        "silu = Mul(gate, act)",
        "y = Mul(silu, up)",
    ]
    assert list(model.graph[1].inputs[1].const_value.numpy()) == [8, 8]
    assert "mlp.up.weight" not in model.graph.initializers


def test_each_gate_merges_with_what_it_gates():
    """Two experts and their router read one tensor."""
    lines, weights = [], {}
    for i in range(2):
        lines.append(f"gate{i} = MatMul(x, wg{i})\nup{i} = MatMul(x, wu{i})")
        activation = "Sigmoid" if i else "Gelu"
        lines.append(f"act{i} = {activation}(gate{i})")
        lines.append(f"silu{i} = Mul(act{i}, gate{i})" if i else f"silu{i} = Identity(act{i})")
        lines.append(f"y{i} = Mul(up{i}, silu{i})")
        weights |= {f"wg{i}": f(K, 8), f"wu{i}": f(K, 8)}
    lines.append("r = MatMul(x, wr)\nt = MatMul(x, wt)\nz = Add(r, t)")
    model = parse(
        f"""g (float[b, s, {K}] x)
            => (float[b, s, 8] y0, float[b, s, 8] y1, float[b, s, 4] z) {{
            {chr(10).join(lines)}
        }}""",
        wr=f(K, 4),
        wt=f(K, 4),
        **weights,
    )
    apply(Canonicalize(), model)
    check(model, {"x": f(2, 3, K)})
    splits = [node for node in model.graph if node.op_type == "Split"]
    assert sorted([value.name for value in node.outputs] for node in splits) == [
        ["gate0", "up0"],
        ["gate1", "up1"],
        ["r", "t"],
    ]


@pytest.mark.parametrize("biased", [(), ("a",), ("b",), ("a", "b")])
@pytest.mark.parametrize("gemm", [False, True])
def test_biases_merge_and_missing_ones_are_zero(biased, gemm):
    lines, constants = [], {}
    for name, n in (("a", 5), ("b", 7)):
        constants[f"w_{name}"] = f(n, K) if gemm else f(K, n)
        if name in biased:
            constants[f"bias_{name}"] = f(n)
        if gemm:
            bias = f", bias_{name}" if name in biased else ""
            lines.append(f"{name} = Gemm<transB = 1>(x, w_{name}{bias})")
        elif name in biased:
            lines.append(f"m_{name} = MatMul(x, w_{name})\n{name} = Add(bias_{name}, m_{name})")
        else:
            lines.append(f"{name} = MatMul(x, w_{name})")
    dims = "r" if gemm else "b, s"
    body = "\n".join(lines)
    model = parse(
        f"g (float[{dims}, {K}] x) => (float[{dims}, 5] a, float[{dims}, 7] b) {{ {body} }}",
        **constants,
    )
    check(model, {"x": f(4, K) if gemm else f(2, 3, K)})
    expected = {"Gemm": 1} if gemm else {"MatMul": 1} | ({"Add": 1} if biased else {})
    assert census(model) == expected | {"Split": 1}


def siblings(count):
    body = "\n".join(f"y{i} = MatMul(x, w{i})" for i in range(count))
    outputs = ", ".join(f"float[b, {i + 1}] y{i}" for i in range(count))
    constants = {f"w{i}": f(K, i + 1) for i in range(count)}
    return parse(f"g (float[b, {K}] x) => ({outputs}) {{ {body} }}", **constants)


@pytest.mark.parametrize(("limit", "ops"), [(0, 1), (2, 3), (3, 2), (4, 2)])
def test_the_size_of_a_group_is_an_option(limit, ops):
    model = siblings(5)
    check(model, {"x": f(3, K)}, MergeSiblings(max_group=limit))
    assert census(model)["MatMul"] == ops


@pytest.mark.parametrize("limit", [-1, 1])
def test_a_senseless_size_is_refused(limit):
    with pytest.raises(RecipeError, match=f"found {limit}"):
        apply(MergeSiblings(max_group=limit), siblings(2))


def test_one_reader_alone_is_left():
    model = siblings(1)
    entry = check(model, {"x": f(3, K)}, status="unchanged")
    assert not entry.skips


def test_a_weight_that_others_read_is_left_and_reported():
    model = parse(
        f"""g (float[b, {K}] x, float[b, {K}] z) => (float[b, 4] y, float[b, 4] u, float[b, 4] v) {{
            y = MatMul(x, shared)
            u = MatMul(x, own)
            v = MatMul(z, shared)
        }}""",
        shared=f(K, 4),
        own=f(K, 4),
    )
    entry = check(model, {"x": f(3, K), "z": f(3, K)}, status="unchanged")
    assert "reads its weight too" in entry.skips[0].text


@pytest.mark.parametrize(("name", "merged"), [("decoder", 4), ("bert", 2), ("vit", 0), ("cnn", 0)])
def test_tiny_models(name, merged):
    model = tiny.TINY[name](4)
    apply(Canonicalize(), model)
    outputs = {v.name for node in model.graph for v in node.outputs}
    entry = check(model, tiny.sample_feeds(name, 4), status="applied" if merged else "unchanged")
    assert len(entry.changes) == merged
    # What readers see keeps its name (a MatMul's value before its bias is inside).
    kept = {v.name for node in model.graph for v in node.outputs}
    lost = outputs - kept
    assert all(name.endswith("MatMul_output_0") for name in lost)
    assert bool(lost) == (name == "bert")
    if name == "decoder":
        assert [change.text for change in entry.changes[:2]] == [
            "merges /model/layers.0/self_attn/q_proj/MatMul, "
            "/model/layers.0/self_attn/k_proj/MatMul, "
            "/model/layers.0/self_attn/v_proj/MatMul (64 + 32 + 32 outputs)",
            "merges /model/layers.0/mlp/gate_proj/MatMul, "
            "/model/layers.0/mlp/up_proj/MatMul (128 + 128 outputs)",
        ]


def test_query_key_value_come_in_that_order():
    shape = "[b, s, 8]"
    model = parse(
        f"""g (float[b, s, {K}] x) => (float{shape} y) {{
            v = MatMul(x, w_v)
            k = MatMul(x, w_k)
            q = MatMul(x, w_q)
            y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
        }}""",
        **{name: f(K, 8) for name in ("w_v", "w_k", "w_q")},
    )
    check(model, {"x": f(2, 3, K)})
    split = next(node for node in model.graph if node.op_type == "Split")
    assert [value.name for value in split.outputs] == ["q", "k", "v"]


@pytest.mark.parametrize("exclude", ["/attn/b/*", "attn.b.weight", "/attn/[!ac]*"])
def test_excluded_sites_keep_their_names(exclude):
    model = parse(
        f"""g (float[s, {K}] x) => (float[s, 4] a, float[s, 4] b, float[s, 4] c) {{
            a = MatMul(x, wa)
            b = MatMul(x, wb)
            c = MatMul(x, wc)
        }}""",
        wa=f(K, 4),
        wb=f(K, 4),
        wc=f(K, 4),
    )
    for node, letter in zip(list(model.graph), "abc", strict=True):
        node.name = f"/attn/{letter}/MatMul"
        node.inputs[1].name = f"attn.{letter}.weight"
    entry = check(model, {"x": f(3, K)}, MergeSiblings(exclude=(exclude,)))
    assert [(skip.site, skip.text) for skip in entry.skips] == [
        ("/attn/b/MatMul", "excluded by the recipe")
    ]
    assert {node.name for node in model.graph if node.op_type == "MatMul"} == {
        "/attn/a/MatMul+c/MatMul",
        "/attn/b/MatMul",
    }
