import numpy as np
import pytest

from nas.calm import calm_reference_ms


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7])
def test_slow_spells_are_told_from_calm_ones(share: float) -> None:
    rng = np.random.default_rng(0)
    n_slow = round(100 * share)
    quiet, slow = rng.normal(7.0, 0.07, 100 - n_slow), rng.normal(8.1, 0.07, n_slow)
    longest = calm_reference_ms([*quiet, *slow])
    assert (quiet <= longest).all()
    assert (slow > longest).all()


def test_noise_alone_disturbs_nothing() -> None:
    rng = np.random.default_rng(0)
    durations = 0.05 * rng.lognormal(0, 0.1, 200)
    assert (durations <= calm_reference_ms(durations.tolist())).mean() > 0.95
    assert calm_reference_ms([2.0]) == pytest.approx(2.0 * 1.07)
