"""The figures beside accuracy, against hand computations."""

import numpy as np
import pytest

from nas.scores import agreement, calibration_error, worst_class
from search_spaces.errors import ShapeError


def logits_of(confidence: list[float], answers: list[int]) -> np.ndarray:
    """Logits of two labels whose larger probability and label are given."""
    chosen = np.log(np.array(confidence)) - np.log1p(-np.array(confidence))
    rows = np.zeros((len(answers), 2))
    rows[np.arange(len(answers)), answers] = chosen
    return rows


def test_agreement_is_the_share_of_equal_answers_whatever_the_confidence() -> None:
    teacher = logits_of([0.9, 0.6, 0.99, 0.7], [0, 1, 1, 0])
    assert agreement(logits_of([0.51, 0.9, 0.8, 0.7], [0, 1, 0, 1]), teacher) == 0.5
    assert agreement(3 * teacher + 7, teacher) == 1.0


def test_the_calibration_error_is_that_of_a_hand_computation() -> None:
    # bins of 1/15: .91 and .92 lie in (.867, .933], .98 in (.933, 1], .55 in (.533, .6]
    logits = logits_of([0.91, 0.92, 0.98, 0.55], [0, 0, 1, 1])
    labels = np.array([0, 1, 1, 0])
    expected = (2 * abs(0.5 - 0.915) + abs(1 - 0.98) + abs(0 - 0.55)) / 4
    assert calibration_error(logits, labels) == pytest.approx(expected, abs=1e-9)


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one() -> None:
    logits = np.log(np.array([[0.6, 0.4], [0.55, 0.45]]))  # bins of 1/5: 0.6 closes (.4, .6], with .55
    assert calibration_error(logits, np.array([0, 1]), bins=5) == pytest.approx(abs(1 - 0.6 + 0 - 0.55) / 2)


def test_honest_answers_are_calibrated_and_boasting_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 40_000)
    right = rng.random(40_000) < confidence
    honest = logits_of(list(np.minimum(confidence, 1 - 1e-9)), [0] * 40_000)
    labels = np.where(right, 0, 1)
    assert calibration_error(honest, labels) < 0.01
    assert calibration_error(8 * honest, labels) > 0.15


def test_the_worst_class_is_the_least_recalled_of_those_that_occur() -> None:
    answers = np.eye(4)[[0, 0, 1, 2, 2, 2]]
    labels = np.array([0, 0, 1, 1, 2, 0])  # recalls 2/3, 1/2, 1; label 3 does not occur
    assert worst_class(answers, labels) == (1, 0.5)


@pytest.mark.parametrize(
    ("score", "arguments", "message"),
    [
        (agreement, (np.zeros((2, 2)), np.zeros((3, 2))), r"\(2, 2\) and \(3, 2\)"),
        (calibration_error, (np.zeros((2, 2)), np.zeros(3, int)), "2 logits, 3 labels"),
        (calibration_error, (np.zeros((2, 2)), np.zeros(2, int), 0), "0 bins"),
        (worst_class, (np.zeros((0, 2)), np.zeros(0, int)), "0 logits, 0 labels"),
    ],
)
def test_rows_that_do_not_fit_are_refused(score: object, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        score(*arguments)  # type: ignore[operator]
