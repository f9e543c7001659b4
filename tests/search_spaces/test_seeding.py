import subprocess
import sys

import numpy as np
import pytest

from search_spaces.seeding import rng_for


def test_equal_arguments_give_equal_draws():
    assert rng_for(3, "mutate", 17).random(5).tolist() == rng_for(3, "mutate", 17).random(5).tolist()


@pytest.mark.parametrize("other", [(4, "mutate", 17), (3, "sample", 17), (3, "mutate", 18), (3, "mutate"), (3,)])
def test_any_other_argument_gives_other_draws(other):
    assert rng_for(3, "mutate", 17).random() != rng_for(*other).random()


def test_the_borders_between_arguments_count():
    assert rng_for(1, "ab", "c").random() != rng_for(1, "a", "bc").random()
    assert rng_for(1, 23).random() != rng_for(12, 3).random()


def test_another_process_draws_the_same():
    program = "from search_spaces.seeding import rng_for; print(rng_for(0, 'trial', 1).integers(2**62))"
    drawn = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(drawn) == rng_for(0, "trial", 1).integers(2**62)


def test_neighbouring_trials_draw_independently():
    first = np.array([rng_for(0, "trial", number).random() for number in range(2000)])
    assert first.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1
