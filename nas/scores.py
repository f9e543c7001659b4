"""What a model's answers are worth beside its accuracy: agreement, calibration, the worst class.

Knows logits and labels only: no models, no files.
"""

import numpy as np
from scipy.special import softmax

from search_spaces.errors import ShapeError

BINS = 15  # Guo et al. 2017, sec. 4


def agreement(logits: np.ndarray, teacher: np.ndarray) -> float:
    """Return the share of rows, 0..1, that both models give the same label; 1 for the teacher itself.

    Args:
        logits: ``(n, labels)`` of the student.
        teacher: ``(n, labels)`` of the teacher, the same rows.

    Raises:
        ShapeError: The shapes differ, or there is no row.

    Source: Stanton et al. 2021, https://arxiv.org/abs/2106.05945, sec. 3 (top-1 agreement).
    """
    if logits.shape != teacher.shape or not len(logits):
        raise ShapeError(f"agreement: logits of shapes {logits.shape} and {teacher.shape}; equal ones, not empty.")
    return float((logits.argmax(axis=1) == teacher.argmax(axis=1)).mean())


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: how far confidence is from accuracy on average, 0 (honest) to 1.

    ECE = sum_m |B_m| / n * |acc(B_m) - conf(B_m)| over M bins of equal width; B_m holds the rows whose largest
    probability lies in ((m - 1) / M, m / M].

    Args:
        logits: ``(n, labels)`` float; probabilities are their softmax.
        labels: ``(n,)`` the right ones.
        bins: M.

    Raises:
        ShapeError: Lengths differ, there is no row, or fewer than 1 bin.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.
    """
    if len(logits) != len(labels) or not len(labels) or bins < 1:
        raise ShapeError(
            f"calibration error: {len(logits)} logits, {len(labels)} labels, {bins} bins; "
            "as many logits as labels, at least 1 row and 1 bin."
        )
    chances = softmax(logits.astype(np.float64), axis=1)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=right - confidence, minlength=bins)  # |B_m| * (acc - conf)
    return float(np.abs(gaps).sum() / len(labels))


def worst_class(logits: np.ndarray, labels: np.ndarray) -> tuple[int, float]:
    """Return the label that is recognised least and the share of its rows that are, 0..1; the first of equals.

    Args:
        logits: ``(n, labels)``.
        labels: ``(n,)`` the right ones; labels without a row do not count.

    Raises:
        ShapeError: Lengths differ, or there is no row.
    """
    if len(logits) != len(labels) or not len(labels):
        raise ShapeError(f"worst class: {len(logits)} logits, {len(labels)} labels; equally many, at least 1.")
    right = logits.argmax(axis=1) == labels
    present = np.unique(labels)
    recalls = [float(right[labels == label].mean()) for label in present]
    worst = int(np.argmin(recalls))
    return int(present[worst]), recalls[worst]
