"""A simulated device: its figures follow from the arithmetic and bytes of the graph, counted in another way here."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressors.int8 import DynamicInt8
from nas.devices.base import Workload
from nas.devices.onnx_text_encoder import build_onnx
from nas.devices.operations import operations
from nas.devices.roofline_backend import Roofline
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError
from search_spaces.families.encoder_costs import macs
from tests.nas.devices.test_onnx_text_encoder import BERT, SHAPES, encoder


def device(**options: Any) -> Roofline:
    return Roofline(DeviceSettings(name="chip", backend="roofline", options=options))


def product(rows: int, inner: int, columns: int) -> bytes:
    """A file that is one matrix product."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])
    weight = numpy_helper.from_array(np.ones((inner, columns), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.load_model_from_string(model.SerializeToString()).SerializeToString()


@pytest.mark.parametrize(
    ("options", "ms"),
    [
        ({"gflops": 1, "bandwidth_gbs": 1e6, "overhead_us": 0}, 2 * 10 * 20 * 30 / 1e6),
        ({"gflops": 1e6, "bandwidth_gbs": 1, "overhead_us": 0}, 4 * (10 * 20 + 20 * 30 + 10 * 30) / 1e6),
        ({"gflops": 1e9, "bandwidth_gbs": 1e9, "overhead_us": 7}, 7e-3),
        ({"gflops": 1e6, "bandwidth_gbs": 1, "overhead_us": 0, "cache_mb": 0.003, "cache_gbs": 10}, 4 * 1100 / 1e7),
        ({"gflops": 1e6, "bandwidth_gbs": 1, "overhead_us": 0, "cache_mb": 0.002, "cache_gbs": 10}, 4 * 1100 / 1e6),
    ],
)
def test_one_product_takes_what_the_formula_says(options: dict[str, float], ms: float) -> None:
    (seen,) = device(**options).measure([product(10, 20, 30)], None, Workload(1, 8))
    assert seen.median_ms == pytest.approx(ms, rel=1e-4)
    assert seen.origin == "simulated"


@pytest.mark.parametrize("kind", ["onnxruntime", "onnx"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_attention_are_the_macs_of_the_shape(shape: str, kind: Any) -> None:
    config = SHAPES[shape]
    done = operations(build_onnx(encoder(config), kind), Workload(1, 17), 17)
    counted = sum(each.flops for each in done if "MatMul" in each.kind or "Attention" in each.kind)
    assert counted == 2 * macs(config, 17)


def test_int8_has_a_peak_and_fewer_bytes_of_its_own() -> None:
    plain = build_onnx(encoder(replace(BERT, hidden=192, embedding=192, head_size=32)))
    small = DynamicInt8().apply(plain)
    slow, quick = (
        device(gflops=1, int8_gops=gops, bandwidth_gbs=1e6, overhead_us=0).measure([small], plain, Workload(1, 32))[0]
        for gops in (None, 4)
    )
    assert 3 < slow.median_ms / quick.median_ms < 4
    assert (quick.speedup or 0) > 3


def test_a_mix_is_the_mean_of_its_lengths_and_a_larger_batch_takes_longer() -> None:
    chip, file = device(), build_onnx(encoder(BERT))
    one = [chip.measure([file], None, Workload(1, n))[0].median_ms for n in (8, 32)]
    mixed = chip.measure([file], None, Workload(1, 10, ((8, 0.75), (32, 0.25))))[0]
    assert mixed.median_ms == pytest.approx(0.75 * one[0] + 0.25 * one[1])
    assert chip.measure([file], None, Workload(8, 8))[0].median_ms > one[0]


def test_everything_is_marked_and_nothing_else_is_made_up() -> None:
    chip, file = device(gflops=5), build_onnx(encoder(BERT))
    assert chip.environment()["runtime"].startswith("simulated roofline: gflops 5, bandwidth_gbs 10")
    assert chip.peak_memory(file, Workload(1, 8)) is None
    assert chip.energy_mj(file, Workload(1, 8)) is None


def test_a_call_that_the_model_does_not_allow_is_refused_in_one_line() -> None:
    with pytest.raises(DeviceError, match="device 'chip': a call of 1x50 tokens has no shapes; ONNX Runtime says"):
        device().measure([build_onnx(encoder(BERT))], None, Workload(1, 50))
