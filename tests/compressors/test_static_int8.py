import copy
from functools import cache

import numpy as np
import pytest

from compressors.calibration import RANGES
from compressors.distillation import Distillation
from compressors.quantization_aware import QuantizationAware
from compressors.static_int8 import StaticInt8
from nas.bundle import Outputs
from nas.data.tokens import Tokens
from nas.distill import distill
from nas.outputs import accuracy, predict_logits
from nas.recipe import TrainSettings
from search_spaces.errors import ConfigError, DataError
from search_spaces.families.encoder_model import TextEncoder
from tests.compressors.artefacts import DEVICE, artefact, calibration_run, constants, error, logits, nodes
from tests.compressors.encoders import encoder, texts


@pytest.mark.parametrize("calibration", RANGES)
def test_the_artefact_says_nearly_the_same_under_every_calibration(calibration: str) -> None:
    assert error(StaticInt8(calibration=calibration).apply(artefact(), calibration_run())) < 0.1


def test_a_scale_for_each_column_is_nearer_than_one_for_all() -> None:
    exact = artefact(uneven=True)
    errors = [error(StaticInt8(per_channel=each).apply(exact, calibration_run()), exact) for each in (True, False)]
    assert errors[0] < errors[1]


def test_the_ranges_are_constants_so_a_row_does_not_depend_on_the_others_of_its_call() -> None:
    file = StaticInt8().apply(artefact(), calibration_run())
    ids = np.array([2, 7, 9, 50, 51, 52], np.int32)
    both = Tokens(ids, np.zeros(6, np.uint8), np.array([0, 3, 6]), np.zeros(2, np.int64))
    assert not nodes(file, "DynamicQuantizeLinear")
    np.testing.assert_allclose(DEVICE.predict(file, both, 2), DEVICE.predict(file, both, 1), atol=1e-6)


def test_the_ranges_are_those_of_the_calibration_rows() -> None:
    file = StaticInt8().apply(artefact(), calibration_run())
    (head,) = [each for each in constants(artefact()) if each == "head.out.weight"]
    (product,) = [node for node in nodes(file, "MatMulIntegerToFloat") if f"{head}_columns_quantized" in node.input]
    scale, zero = (constants(file)[product.input[place]] for place in (2, 4))
    least, most = -float(zero) * float(scale), (255 - float(zero)) * float(scale)
    assert -1.01 <= least < 0 < most <= 1.01  # it reads tanh


def test_biases_move_into_the_products_and_what_two_products_read_is_quantized_once() -> None:
    file = StaticInt8().apply(artefact(), calibration_run())
    biased = [node for node in nodes(file, "MatMulIntegerToFloat") if len(node.input) == 7]
    assert len(nodes(file, "Add")) == 0 < len(nodes(artefact(), "Add")) == len(biased)
    read = [node.input[0] for node in nodes(file, "MatMulIntegerToFloat")]
    assert len(nodes(file, "QuantizeLinear")) == len(set(read))


def test_an_excluded_node_stays_and_the_report_says_by_which_pattern() -> None:
    compressor = StaticInt8(exclude="head.*, *.down.*")
    file = compressor.apply(artefact(), calibration_run())
    left = {node.name for node in nodes(file, "MatMul")}
    assert left == {"head.dense.matmul", "head.out.matmul", "layers.0.down.matmul", "layers.1.down.matmul"}
    whys = {skip.where: skip.why for skip in compressor.report().skipped}
    assert whys["head.out.matmul"] == "excluded by 'head.*'"
    assert whys["layers.1.down.matmul"] == "excluded by '*.down.*'"
    assert {change.where for change in compressor.report().changed}.isdisjoint(left)


def test_the_report_counts_the_bytes_of_every_weight_and_of_the_file() -> None:
    compressor = StaticInt8()
    file = compressor.apply(artefact(), calibration_run())
    report = compressor.report()
    words = next(change for change in report.changed if change.where == "words")
    assert (words.before, words.after) == (4 * 100 * 32, 100 * 32)
    assert (report.figures["bytes_before"], report.figures["bytes_after"]) == (len(artefact()), len(file))


def test_the_argument_is_not_changed_and_equal_rows_give_equal_bytes() -> None:
    file = bytes(artefact())
    first = StaticInt8().apply(file, calibration_run())
    assert file == artefact()
    assert first == StaticInt8().apply(file, calibration_run())


def test_disabled_returns_the_model_as_it_is_and_needs_no_rows() -> None:
    compressor = StaticInt8(enabled=False)
    assert compressor.apply(artefact()) == artefact()
    assert compressor.report().skipped[0].why == "static_int8 is not enabled"


def test_without_rows_it_says_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match=r"static_int8: run is None.*or use int8"):
        StaticInt8().apply(artefact())
    with pytest.raises(DataError, match="0 calibration rows"):
        StaticInt8().apply(artefact(), calibration_run(0))


def test_an_unknown_calibration_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'minmax' is unknown; known: min_max, percentile, mse, entropy"):
        StaticInt8(calibration="minmax")


def test_an_exclusion_that_matches_nothing_names_nodes_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"static_int8.exclude: 'decoder.\*' matches none of \d+ nodes; there are words"
    ):
        StaticInt8(exclude="head.*,decoder.*").apply(artefact(), calibration_run())


def test_a_model_with_nothing_left_to_quantize_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"static_int8: 0 of \d+ nodes can be quantized.*excluded by '\*'"):
        StaticInt8(exclude="*").apply(artefact(), calibration_run())
    once = StaticInt8().apply(artefact(), calibration_run())
    with pytest.raises(ConfigError, match=r"0 of \d+ nodes"):
        StaticInt8().apply(once, calibration_run())


def test_logits_are_finite() -> None:
    assert np.isfinite(logits(StaticInt8().apply(artefact(), calibration_run(1)))).all()


@cache
def learned(activations: str = "learned") -> tuple[TextEncoder, QuantizationAware]:
    """A student that learned to tell even from odd tokens while all that int8 rounds was rounded."""
    tokens, student = texts(1500, seed=2), encoder()
    teacher = Outputs(np.where(np.eye(2)[tokens.labels] > 0, 3.0, -3.0).astype(np.float16))
    training = QuantizationAware(activations=activations, embeddings=True)
    settings = TrainSettings(epochs=8, lr=3e-3, batch_size=32, precision="fp32", train_embeddings=True)
    distill(student, tokens, teacher, settings, seed=0, loss=Distillation(), compressors=[training])
    return student.eval(), training


LAYERS = {  # what a matrix of the file is of
    **{f"layers.0.{name}": f"layers.0.{name}" for name in ("out", "up", "down")},
    **{f"layers.1.{name}": f"layers.1.{name}" for name in ("query", "out", "up", "down")},
    **{f"head.{name}": f"head.{name}" for name in ("dense", "out")},
    "layers.0.query_key_value": "layers.0.key",
    "layers.1.key_value": "layers.1.value",
}


@pytest.mark.parametrize("activations", ["learned", "moving"])
def test_ranges_that_training_found_are_those_of_the_file(activations: str) -> None:
    student, training = learned(activations)
    compressor = StaticInt8()
    compressor.take(training.report().ranges)
    file = compressor.apply(DEVICE.export(student))  # no rows needed
    products = nodes(file, "MatMulIntegerToFloat")
    matrices = [node.input[1].removesuffix(".weight_columns_quantized") for node in products]
    assert set(matrices) == set(LAYERS)
    stored = constants(file)
    for matrix, node in zip(matrices, products, strict=True):
        low, high = training.report().ranges[LAYERS[matrix]]
        scale, zero = stored[node.input[2]], stored[node.input[4]]
        assert scale == np.float32((max(high, 0) - min(low, 0)) / 255)
        assert abs(-min(low, 0) / scale - zero) <= 0.5
    assert compressor.report().figures["ranges_learned"] == len(LAYERS)


def test_the_file_with_learned_ranges_labels_what_training_simulated() -> None:
    student, training = learned()
    simulated = copy.deepcopy(student)
    for name, given in training._inputs.by_layer.items():
        simulated.get_submodule(name).register_forward_pre_hook(given)
    compressor = StaticInt8()
    compressor.take(training.report().ranges)
    file, fresh = compressor.apply(DEVICE.export(student)), texts(1500, seed=3)
    said, expected = DEVICE.predict(file, fresh, 8), predict_logits(simulated, fresh)
    assert accuracy(expected, fresh) > 0.9
    assert abs(accuracy(said, fresh) - accuracy(expected, fresh)) <= 0.002
    calibrated = DEVICE.predict(StaticInt8().apply(DEVICE.export(student), calibration_run()), fresh, 8)
    assert np.abs(said - expected).mean() < np.abs(calibrated - expected).mean()


def test_inputs_without_a_learned_range_are_calibrated_as_ever() -> None:
    compressor = StaticInt8()
    compressor.take({"head.out": (-0.5, 0.25), "no.such.layer": (0.0, 1.0)})
    with pytest.raises(ConfigError, match="run is None"):
        compressor.apply(artefact())
    mixed, plain = compressor.apply(artefact(), calibration_run()), StaticInt8().apply(artefact(), calibration_run())
    names = [name for name in constants(plain) if name.endswith("_static_scale")]
    differ = [name for name in names if constants(mixed)[name] != constants(plain)[name]]
    assert [float(constants(mixed)[name]) for name in differ] == [pytest.approx(0.75 / 255)]
    assert compressor.report().figures["ranges_learned"] == 1


def test_a_range_that_does_not_reach_zero_is_widened_to_it() -> None:
    compressor = StaticInt8()
    compressor.take({"head.out": (0.5, 0.75)})
    file = compressor.apply(artefact(), calibration_run())
    products = nodes(file, "MatMulIntegerToFloat")
    (product,) = [node for node in products if "head.out.weight_columns_quantized" in node.input]
    assert constants(file)[product.input[2]] == np.float32(0.75 / 255)
    assert constants(file)[product.input[4]] == 0
