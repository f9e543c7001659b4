import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from compressors.int8 import DynamicInt8, quantize
from search_spaces.errors import ConfigError


def model(weight_type: type = np.float32) -> bytes:
    """A table, two matrices that read the same input, and a matrix product of two activations."""
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.normal(size=(50, 16)).astype(np.float32),
        "a": rng.normal(size=(16, 24)).astype(weight_type),
        "b": (rng.normal(size=(16, 24)) * np.arange(1, 25)).astype(weight_type),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], "look_up"),
        helper.make_node("MatMul", ["x", "a"], ["xa"], "first"),
        helper.make_node("MatMul", ["x", "b"], ["xb"], "second"),
        helper.make_node("Transpose", ["xb"], ["xbt"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["xa", "xbt"], ["out"], "dynamic"),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "n"])]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def run(artefact: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.arange(12)})[0]


def test_the_model_stays_nearly_the_same_function():
    exact, rough = run(model()), run(DynamicInt8().apply(model()))
    assert np.abs(rough - exact).max() < 0.03 * np.abs(exact).max()


def test_a_scale_for_each_column_is_nearer_than_one_for_all():
    exact = run(model())
    errors = [np.abs(run(DynamicInt8(per_channel=p).apply(model())) - exact).mean() for p in (True, False)]
    assert errors[0] < errors[1]


def test_the_result_is_about_as_near_as_onnx_runtimes_own_quantizer():
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        source.write_bytes(model())
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        theirs = run(target.read_bytes())
    ours, exact = run(DynamicInt8().apply(model())), run(model())
    assert np.abs(ours - exact).mean() < 1.5 * np.abs(theirs - exact).mean()


def test_the_report_names_what_was_quantized_and_why_the_rest_was_not():
    compressor = DynamicInt8()
    result = compressor.apply(model())
    report = compressor.report()
    assert [(c.where, c.before, c.after) for c in report.changed] == [
        ("look_up", 3200, 800),
        ("first", 1536, 384),
        ("second", 1536, 384),
    ]
    assert [(s.where, s.why) for s in report.skipped] == [("dynamic", "its weight is not a constant")]
    assert report.figures["bytes_before"] == len(model())
    assert report.figures["bytes_after"] == len(result) < len(model())


def test_an_input_shared_by_two_matrices_is_quantized_once():
    kinds = [node.op_type for node in onnx.load_model_from_string(DynamicInt8().apply(model())).graph.node]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulInteger") == 2


def test_no_float_weights_are_left_behind():
    left = onnx.load_model_from_string(DynamicInt8().apply(model())).graph.initializer
    assert {tensor.name for tensor in left if tensor.data_type == TensorProto.FLOAT} == {
        "table_scale",
        "a_columns_scale",
        "b_columns_scale",
    }


def test_the_argument_is_not_changed_and_equal_models_give_equal_bytes():
    artefact = model()
    assert DynamicInt8().apply(artefact) == DynamicInt8().apply(artefact)
    assert artefact == model()


def test_disabled_returns_the_model_as_it_is():
    compressor = DynamicInt8(enabled=False)
    assert compressor.apply(model()) == model()
    assert compressor.report().skipped[0].why == "int8 is not enabled"


def test_a_model_with_nothing_to_quantize_is_an_error():
    with pytest.raises(ConfigError, match=r"0 of \d+ nodes can be quantized"):
        DynamicInt8().apply(DynamicInt8().apply(model()))


@pytest.mark.parametrize("per_column", [True, False])
def test_rounding_errs_by_half_a_step_at_most(per_column):
    values = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)
    values[:, 3] = 0
    levels, scale = quantize(values, per_column)
    assert np.all(np.abs(levels * scale - values) <= scale * 0.5001)
