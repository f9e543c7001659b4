import zlib
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compressors.half import Half
from compressors.int8 import DynamicInt8
from compressors.sizes import TensorSize, sizes_of_artefact
from compressors.static_int8 import StaticInt8
from compressors.weights_4bit import FourBitWeights
from tests.compressors.artefacts import artefact, calibration_run
from tests.compressors.encoders import encoder


def file(nodes: Sequence[NodeProto], constants: Sequence[TensorProto]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "tiny", [x], [y], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()


def sized(nodes: Sequence[NodeProto], **constants: np.ndarray) -> dict[str, TensorSize]:
    found = sizes_of_artefact(file(nodes, [numpy_helper.from_array(a, name) for name, a in constants.items()]))
    return {tensor.name: tensor for tensor in found.tensors}


def test_a_small_float_graph_is_counted_by_hand() -> None:
    weight = np.array([[1, 0], [0, 2], [3, 4], [0, -1]], np.float32)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, 2]), "shape")]
    made = file([helper.make_node("MatMul", ["x", "w"], ["y"])], constants)
    sizes = sizes_of_artefact(made)
    assert sizes.tensors == (
        TensorSize("w", (4, 2), "float32", 8, 5, 32),
        TensorSize("shape", (2,), "int64", 0, 0, 16),
    )
    assert (sizes.parameters, sizes.nonzeros, sizes.size_bytes) == (8, 5, len(made))
    assert sizes.bits_per_weight == 8 * (32 + 16) / 8
    assert sizes.compressed_bytes == len(zlib.compress(made, 6))
    assert [tensor.bits for tensor in sizes.tensors] == [32, 0]


def test_half_precision_counts_sixteen_bits() -> None:
    found = sized([helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.eye(4, dtype=np.float16))
    assert found["w"] == TensorSize("w", (4, 4), "float16", 16, 4, 32)
    assert found["w"].bits == 16


def test_an_integer_weight_is_zero_at_its_zero_point_and_its_grid_is_no_parameter() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    weight = np.array([[7, 1], [7, 3], [0, 3], [1, 3]], np.uint8)
    found = sized(nodes, w=weight, s=np.ones(2, np.float32), z=np.array([7, 3], np.uint8))
    assert (found["w"].parameters, found["w"].nonzeros, found["w"].bits) == (8, 3, 8)
    assert found["s"].parameters == found["z"].parameters == 0


def test_packed_weights_count_one_by_one_without_the_filling_of_blocks() -> None:
    levels = np.full((2, 2, 16), 8, np.uint8)  # 20 rows of a matrix in two blocks of 16, 2 columns
    levels[0, 0, :3], levels[0, 1, 10] = 5, 1  # the last is filling
    packed = levels[..., 0::2] | levels[..., 1::2] << 4
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=20, N=2, block_size=16, bits=4
    )
    found = sized([node], w=packed, s=np.ones((2, 2), np.float32))
    assert found["w"] == TensorSize("w", (2, 20), "uint8", 40, 3, 32)


def test_packed_tables_with_zero_points_are_zero_there() -> None:
    levels = np.repeat(np.array([[3, 9], [4, 4]], np.uint8), 16, axis=1)
    levels[0, 0], levels[1, 31] = 4, 9
    inputs, sizes = ["w", "x", "s", "z"], {"gather_axis": 0, "quantize_axis": 1, "block_size": 16, "bits": 4}
    node = helper.make_node("GatherBlockQuantized", inputs, ["y"], domain="com.microsoft", **sizes)
    packed = levels[:, 0::2] | levels[:, 1::2] << 4
    found = sized([node], w=packed, s=np.ones((2, 2), np.float32), z=np.array([[0x93], [0x44]], np.uint8))
    assert (found["w"].parameters, found["w"].nonzeros, found["w"].bits) == (64, 2, 4)


@pytest.mark.parametrize(
    ("compressor", "low", "high"),
    [
        (DynamicInt8(), 8, 11),  # 5 bytes for a column of 32 weights
        (StaticInt8(), 8, 11),
        (Half(), 16, 17),
        (FourBitWeights(block=16), 6, 8),  # 4 bits and a 32-bit scale for 16 weights
    ],
)
def test_our_own_artefacts_have_all_parameters_and_the_bits_that_were_asked_for(compressor, low, high) -> None:
    before = sizes_of_artefact(artefact())
    after = sizes_of_artefact(compressor.apply(artefact(), calibration_run()))
    assert after.parameters == before.parameters
    assert before.bits_per_weight == pytest.approx(32, abs=0.1)
    assert low < after.bits_per_weight < high
    assert 0 < after.compressed_bytes < after.size_bytes < before.size_bytes


def test_scales_stored_in_half_precision_are_still_no_parameters() -> None:
    packed = FourBitWeights(block=16).apply(artefact())
    before, after = sizes_of_artefact(packed), sizes_of_artefact(Half().apply(packed))
    assert after.parameters == before.parameters
    assert after.nonzeros == before.nonzeros
    assert after.bits_per_weight < before.bits_per_weight


def test_the_artefact_of_a_module_has_the_parameters_of_the_module() -> None:
    assert sizes_of_artefact(artefact()).parameters == sum(p.numel() for p in encoder().parameters())


def test_zeros_are_cheap_once_compressed() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 2500)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    full = sizes_of_artefact(file([node], [numpy_helper.from_array(weight, "w")]))
    weight[:, ::2] = 0
    pruned = sizes_of_artefact(file([node], [numpy_helper.from_array(weight, "w")]))
    assert (full.size_bytes, full.parameters) == (pruned.size_bytes, pruned.parameters)
    assert pruned.nonzeros == full.nonzeros / 2
    assert pruned.compressed_bytes < 0.75 * full.compressed_bytes


def test_the_file_is_only_read() -> None:
    before = bytes(artefact())
    sizes_of_artefact(before)
    assert before == artefact()
    onnx.load_model_from_string(before)
