import numpy as np

from nas.foresight import foresight
from nas.objectives import Constraint, Objective
from search_spaces.seeding import rng_for
from tests.nas.phases import candidates, known

MADE = candidates()
KNOWN = known(MADE)
OBJECTIVES = [Objective.of("accuracy"), Objective.of("latency_ms")]
SOME = [MADE.space.sample(rng_for(0, "some", i)) for i in range(20)]


def test_what_needs_no_training_is_known_and_accuracy_is_not():
    foreseen = foresight(KNOWN, OBJECTIVES, [])
    assert list(foreseen.costs) == [1]
    costs = foreseen.known_costs(SOME, 2)
    assert np.isnan(costs[:, 0]).all()
    assert costs[:, 1].tolist() == [KNOWN.metrics(genes)["latency_ms"] for genes in SOME]


def test_an_objective_to_maximise_is_a_negative_cost():
    foreseen = foresight(KNOWN, [Objective.of("macs"), Objective.of("accuracy")], [])
    assert (foreseen.known_costs(SOME, 2)[:, 0] > 0).all()
    assert list(foreseen.costs) == [0]


def test_features_are_finite_and_tell_shapes_apart():
    features = foresight(KNOWN, OBJECTIVES, []).known_features(SOME)
    assert features.shape == (20, 4)
    assert len(np.unique(features, axis=0)) > 10
    assert foresight(KNOWN, OBJECTIVES, []).known_features([]).shape[0] == 0


def test_the_sum_of_the_damages_of_its_changes_is_a_feature_of_a_candidate():
    gene, values = next((name, d.values) for name, d in MADE.space.dimensions.items() if d.size > 1)
    damages = {gene: dict(zip(values, np.linspace(0.0, 1.0, len(values)), strict=True)), "not there": {0: 9.0}}
    features = foresight(KNOWN, OBJECTIVES, [], damages).known_features(SOME)
    assert features.shape == (20, 5)
    expected = [1e-3 + (damages[gene][genes[gene]] if gene in genes else 0.0) for genes in SOME]
    np.testing.assert_allclose(np.exp(features[:, 4]), expected)
    assert np.ptp(features[:, 4]) > 1


def test_only_candidates_that_can_meet_the_constraints_are_accepted():
    limits = [Constraint.parse("latency_ms <= 20%")]
    accept = foresight(KNOWN, OBJECTIVES, limits).accept
    assert {accept(genes) for genes in SOME} == {True, False}
    assert all(accept(genes) == (KNOWN.shortfall(genes, limits) <= 0) for genes in SOME)
