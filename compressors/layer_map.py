"""Which layer of a student learns from which layer of its teacher, when they have different depths.

Knows numbers of layers and distances; not models.
"""

import numpy as np

LAYER_MAPS = ("skip", "last", "dynamic")
PER_TAUGHT = 3  # teacher layers for one that teaches on the dynamic map: 4 of 12 (CoFi, sec. 3.2)


def fixed_pairs(layer_map: str, n_student: int, n_teacher: int) -> list[tuple[int, int]]:
    """Return pairs of a student's and a teacher's layer, from 1, in order.

    Args:
        layer_map: ``skip``: student layer i of n learns from teacher layer round(i * m / n) of m; ``last``: the last n
            layers of the teacher teach, in their order.
        n_student: Layers of the student.
        n_teacher: Layers of the teacher.

    Source: Sun et al. 2019 (Patient KD), https://arxiv.org/abs/1908.09355, sec. 3.2, whose names these are; the
    uniform map also Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351, sec. 3.1.
    """
    if layer_map == "last":
        n = min(n_student, n_teacher)
        return [(n_student - n + i, n_teacher - n + i) for i in range(1, n + 1)]
    return list(enumerate(spread(n_student, n_teacher), start=1))


def spread(n: int, n_all: int) -> list[int]:
    """Return n of the layers 1 to ``n_all`` at even distances, the last of them included."""
    return [max(1, round(i * n_all / n)) for i in range(1, n + 1)]


def taught_layers(n_student: int, n_teacher: int) -> list[int]:
    """Return the teacher's layers, from 1, that teach on the dynamic map: every third, no more than the student has."""
    return spread(min(n_student, -(-n_teacher // PER_TAUGHT)), n_teacher)


def closest_layers(distances: np.ndarray) -> list[int]:
    """Return for each teacher layer the student layer, from 0, that learns from it: the map of least summed distance.

    A later teacher layer always gets a later student layer. CoFi chooses from the last teacher layer to the first,
    each time the nearest that is left; this finds the best of all such maps.

    Args:
        distances: ``(teacher layers, student layers)`` float, no more teacher layers than student layers.

    Source: Xia et al. 2022 (CoFi), https://arxiv.org/abs/2204.00408, sec. 3.2; by dynamic programming.
    """
    n_teacher, n_student = distances.shape
    least = np.full((n_teacher + 1, n_student + 1), np.inf)  # [t, s]: of the first t teacher and s student layers
    least[0] = 0
    for t in range(1, n_teacher + 1):
        for s in range(t, n_student + 1):
            least[t, s] = min(least[t, s - 1], least[t - 1, s - 1] + distances[t - 1, s - 1])
    chosen, s = [], n_student
    for t in range(n_teacher, 0, -1):
        while s > t and least[t, s - 1] <= least[t, s]:
            s -= 1
        s -= 1
        chosen.append(s)
    return chosen[::-1]
