"""What every row of the compressor table keeps to."""

import json
from typing import get_args

import pytest

from compressors import COMPRESSORS
from compressors.base import Compressor, Phase, Stage
from search_spaces.seeding import rng_for
from search_spaces.space import Space

pytestmark = pytest.mark.parametrize("name", list(COMPRESSORS))


def test_it_is_a_compressor_of_its_own_name_and_a_known_stage(name: str) -> None:
    compressor = COMPRESSORS.load(name)()
    assert isinstance(compressor, Compressor)
    assert compressor.name == name
    assert compressor.stage in get_args(Stage)
    assert compressor.phase in get_args(Phase)
    assert 0 < len(compressor.suits) <= 100


def test_every_point_of_its_space_is_accepted_and_its_space_is_stable(name: str) -> None:
    cls = COMPRESSORS.load(name)
    space = cls.space()
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    rng = rng_for(0, name)
    for _ in range(20):
        cls(**space.sample(rng))


def test_every_knob_has_a_default_and_an_unknown_one_is_refused(name: str) -> None:
    cls = COMPRESSORS.load(name)
    cls()
    with pytest.raises(TypeError):
        cls(no_such_knob=1)


def test_its_report_is_json_before_it_did_anything(name: str) -> None:
    report = COMPRESSORS.load(name)().report()
    assert report.compressor == name
    json.dumps(report.to_json())


def test_it_has_what_its_stage_calls(name: str) -> None:
    compressor = COMPRESSORS.load(name)()
    calls = {
        "model": ("apply",),
        "loss": ("loss", "begin"),
        "training": ("begin", "rewrite", "after_backward", "after_step", "end"),
        "artefact": ("apply",),
    }
    assert all(callable(getattr(compressor, call)) for call in calls[compressor.stage])
