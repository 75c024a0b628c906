"""Each invariant is checked, and a violation names the node."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from support.small_models import LM, LM_SHAPES, MLP, MLP_SHAPES, make_model

from bitfold.passes.core.invariants import check_invariants
from bitfold.passes.core.stage import snapshot
from bitfold.runtime.errors import ModelError


@pytest.fixture
def model() -> ir.Model:
    return make_model(MLP, MLP_SHAPES)


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type)


def test_sound_models_pass(model):
    check_invariants(model, snapshot(model))
    check_invariants(make_model(LM, LM_SHAPES))


def test_topological_order(model):
    relu = node(model, "Relu")
    model.graph.remove(relu)
    model.graph.append(relu)
    with pytest.raises(ModelError, match=r"matmul_3.*computed later, by node 'relu_2'"):
        check_invariants(model)


def test_value_that_nothing_defines(model):
    node(model, "Relu").replace_input_with(0, ir.Value(name="nowhere"))
    with pytest.raises(ModelError, match=r"relu_2.*'nowhere', is no input"):
        check_invariants(model)


def test_value_of_a_node_that_was_taken_out(model):
    relu = node(model, "Relu")
    model.graph.remove(relu, safe=False)
    with pytest.raises(ModelError, match=r"matmul_3.*'relu_2', which is not in the graph"):
        check_invariants(model)


def test_dropped_initializer(model):
    del model.graph.initializers["w_down"]
    with pytest.raises(ModelError, match=r"matmul_3.*w_down"):
        check_invariants(model)


def test_initializer_without_data(model):
    model.graph.initializers["w_down"].const_value = None
    with pytest.raises(ModelError, match=r"data for initializer 'w_down', found none"):
        check_invariants(model)


def test_value_names_are_unique(model):
    node(model, "Relu").outputs[0].name = "up"
    with pytest.raises(ModelError, match=r"relu_2.*'up', which is also an output of node 'matmul"):
        check_invariants(model)


def test_node_names_are_unique_and_there_unless_let_go(model):
    node(model, "Relu").name = "add_1"
    with pytest.raises(ModelError, match=r"'add_1' \(Relu\).*twice"):
        check_invariants(model)
    node(model, "Relu").name = None
    with pytest.raises(ModelError, match="an unnamed Relu that computes 'hidden': expected a name"):
        check_invariants(model)
    check_invariants(model, node_names=False)


def test_inputs_and_outputs_stay(model):
    renamed = snapshot(model)
    renamed.graph.inputs[0].name = "x2"
    with pytest.raises(ModelError, match=r"inputs to stay \['x'\], found \['x2'\]"):
        check_invariants(renamed, model)
    retyped = snapshot(model)
    retyped.graph.outputs[0].dtype = ir.DataType.FLOAT16
    with pytest.raises(ModelError, match=r"'logits': expected type FLOAT, found FLOAT16"):
        check_invariants(retyped, model)
    reshaped = snapshot(model)
    reshaped.graph.outputs[0].shape = ir.Shape(["batch", 1, 32])
    with pytest.raises(ModelError, match=r"'logits': expected shape"):
        check_invariants(reshaped, model)


def test_operators_are_known(model):
    added = ir.node("Sparkle", [model.graph.inputs[0]], domain="elsewhere", name="odd")
    added.outputs[0].name = "sparkle"
    model.graph.append(added)
    with pytest.raises(ModelError, match=r"odd.*found domain 'elsewhere'"):
        check_invariants(model)
    added.domain = "com.microsoft"
    with pytest.raises(ModelError, match=r"opset import of 'com.microsoft'"):
        check_invariants(model)
    model.graph.opset_imports["com.microsoft"] = 1
    check_invariants(model)


def test_bitfold_operators_carry_a_function(model):
    added = ir.node("LowBitMatMul", [model.graph.inputs[0]], domain="bitfold", name="low")
    added.outputs[0].name = "y"
    model.graph.append(added)
    model.graph.opset_imports["bitfold"] = 1
    with pytest.raises(ModelError, match=r"low.*function body.*found none"):
        check_invariants(model)
    a = ir.val("a")
    body = ir.node("Identity", [a], name="inner")
    body.outputs[0].name = "b"
    graph = ir.Graph([a], body.outputs, nodes=[body], opset_imports={"": 21}, name="body")
    function = ir.Function("bitfold", "LowBitMatMul", "", graph=graph, attributes=[])
    model.functions[function.identifier()] = function
    check_invariants(model)
    body.replace_input_with(0, ir.Value(name="lost"))
    with pytest.raises(ModelError, match=r"function bitfold::LowBitMatMul.*'inner'.*'lost'"):
        check_invariants(model)


def test_subgraphs_see_what_was_defined_before_them():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (bool c, float[2] x) => (float[2] y) {
        a = Neg (x)
        y = If (c) <
            then_branch = t () => (float[2] p) { p = Abs (a) },
            else_branch = e () => (float[2] q) { q = Identity (x) }
        >
    }"""
    model = make_model(text, {})
    check_invariants(model, node_names=False)
    branch = node(model, "If").attributes["then_branch"].as_graph()
    branch[0].replace_input_with(0, ir.Value(name="later"))
    with pytest.raises(ModelError, match=r"if_1.*subgraph.*'later'"):
        check_invariants(model, node_names=False)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "message"),
    [
        ("Frobnicate", 1, {}, "expected an operator of opset 21, found none of this name"),
        ("Swish", 1, {}, "expected an operator of opset 21, found none of this name"),
        ("Relu", 2, {}, "expected 1 input, found 2"),
        ("Add", 1, {}, "expected 2 inputs, found 1"),
        ("Clip", 4, {}, "expected 1 to 3 inputs, found 4"),
        ("Concat", 0, {"axis": 0}, "expected 1 or more inputs, found 0"),
        ("Concat", 1, {}, "expected the attribute axis"),
        ("Relu", 1, {"zeal": 1}, "expected attributes among .*, found zeal"),
        ("Softmax", 1, {"axis": "x"}, "attribute axis to be of type INT, found STRING"),
    ],
)
def test_standard_operators_are_as_their_opset_says(model, op_type, inputs, attributes, message):
    x = model.graph.inputs[0]
    made = ir.node(op_type, [x] * inputs, attributes, name="odd")
    made.outputs[0].name = "odd"
    model.graph.append(made)
    with pytest.raises(ModelError, match=message):
        check_invariants(model)


def test_an_input_that_must_be_there(model):
    node(model, "Add").replace_input_with(0, None)
    with pytest.raises(ModelError, match=r"add_1.*expected an input A \(number 0\), found none"):
        check_invariants(model)


def test_operators_that_ort_counts_as_standard(model):
    odd = ir.node("SimplifiedLayerNormalization", [model.graph.inputs[0]] * 2, name="odd")
    odd.outputs[0].name = "odd"
    model.graph.append(odd)
    check_invariants(model)


def test_attributes_of_low_bit_operators_have_their_types(model):
    model.graph.opset_imports["com.microsoft"] = 1
    odd = ir.node(
        "MatMulNBits", [model.graph.inputs[0]], {"N": "x"}, domain="com.microsoft", name="odd"
    )
    odd.outputs[0].name = "odd"
    model.graph.append(odd)
    with pytest.raises(ModelError, match="attribute N to be of type INT, found STRING"):
        check_invariants(model)


def test_an_attribute_without_a_type(model):
    model.graph.opset_imports["com.microsoft"] = 1
    odd = ir.node("Gelu", [model.graph.inputs[0]], domain="com.microsoft", name="odd")
    odd.outputs[0].name = "odd"
    odd.attributes["alpha"] = ir.Attr("alpha", ir.AttributeType.UNDEFINED, None)
    model.graph.append(odd)
    with pytest.raises(ModelError, match="expected a type for attribute alpha, found none"):
        check_invariants(model)


BRANCHES = """<ir_version: 10, opset_import: ["" : 21]>
g (bool c, float[2] x) => (float[2] y) {
    a = Neg (x)
    y = If (c) <
        then_branch = t () => (float[2] p) { b = Abs (a)  p = Exp (b) },
        else_branch = e () => (float[2] q) { b = Exp (a)  q = Abs (b) }
    >
}"""


def test_branches_may_use_one_name_but_not_an_outer_one():
    model = make_model(BRANCHES, {})
    check_invariants(model, node_names=False)
    inner = node(model, "If").attributes["else_branch"].as_graph()
    inner[0].outputs[0].name = "a"
    with pytest.raises(ModelError, match=r"subgraph: an unnamed Exp.*'a', which is also an output"):
        check_invariants(model, node_names=False)
