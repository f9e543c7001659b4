import numpy as np
import pytest

from compressors.calibration import RANGES
from compressors.static_int8 import StaticInt8
from nas.data.tokens import Tokens
from search_spaces.errors import ConfigError, DataError
from tests.compressors.artefacts import DEVICE, artefact, calibration_run, constants, error, logits, nodes


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
