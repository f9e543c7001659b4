import pytest
import torch

from compressors.masks import (
    Rule,
    below_start,
    by_row,
    by_share,
    by_threshold,
    check_knobs,
    keep_highest,
    within_pattern,
    zeros_first,
)
from search_spaces.errors import ConfigError


def scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("layers.0.a.weight", "layers.0.b.weight", "layers.1.a.weight")
    return {name: torch.rand(6, 8, generator=generator) + i for i, name in enumerate(names)}


def zeros(mask: torch.Tensor) -> int:
    return int((~mask).sum())


@pytest.mark.parametrize("n_pruned", [0, 1, 5, 8])
def test_exactly_so_many_go_also_among_equals(n_pruned):
    equal = torch.tensor([[1.0] * 8, [0.0] * 4 + [1.0] * 4])
    stays = keep_highest(equal, n_pruned)
    assert (~stays).sum(1).tolist() == [n_pruned, n_pruned]
    assert stays.tolist()[0] == [False] * n_pruned + [True] * (8 - n_pruned)


def test_matrices_of_a_layer_share_a_threshold_and_layers_do_not():
    masks = by_share(scores(), 0.5, "layer")
    assert [zeros(mask) for mask in masks.values()] == [48, 0, 24]


def test_globally_all_matrices_share_a_threshold():
    masks = by_share(scores(), 0.5, "global")
    assert [zeros(mask) for mask in masks.values()] == [48, 24, 0]


def test_every_row_loses_the_same_share():
    assert (~by_row(scores()["layers.0.a.weight"], 0.25)).sum(1).tolist() == [2] * 6
    kernel = torch.rand(5, 4, 3, 3)
    assert (~by_row(kernel, 0.5)).flatten(1).sum(1).tolist() == [18] * 5


def test_a_threshold_prunes_what_is_at_or_below_it():
    masks = by_threshold({"a": torch.tensor([0.1, 0.2, 0.3])}, 0.2)
    assert masks["a"].tolist() == [False, False, True]


def test_a_threshold_of_the_start_prunes_more_when_weights_have_shrunk_since():
    start = scores()
    same = below_start(start, start, 0.25, "layer")
    assert [zeros(mask) for mask in same.values()] == [24, 0, 12]
    shrunk = below_start({name: score - 0.5 for name, score in start.items()}, start, 0.25, "layer")
    assert zeros(shrunk["layers.1.a.weight"]) > 12


def test_zeros_go_first_whatever_their_score():
    weights = {"a": torch.tensor([[0.0, 1.0, 2.0, 3.0]])}
    masks = by_share(zeros_first({"a": torch.tensor([[9.0, 1.0, 2.0, 3.0]])}, weights), 0.25, "global")
    assert masks["a"].tolist() == [[False, True, True, True]]


def test_a_width_that_the_pattern_does_not_divide_is_refused_naming_the_layer():
    with pytest.raises(ConfigError, match=r"layers\.0\.down\.weight: its input width 50 is not a multiple of 4"):
        within_pattern("layers.0.down.weight", torch.rand(3, 50), 4, 2)


def test_a_pattern_fills_up_as_the_share_grows():
    rule = Rule(pattern="4:8")
    pruned = [zeros(rule.find(scores(), share)["layers.0.a.weight"]) for share in (0, 0.1, 0.125, 0.3, 0.5)]
    assert pruned == [0, 0, 6, 12, 24]


@pytest.mark.parametrize(
    ("sparsity", "rule", "message"),
    [
        (1.0, Rule(), r"x\.sparsity: 1\.0 is out of range; 0 to below 1"),
        (-0.1, Rule(), r"x\.sparsity: -0\.1 is out of range"),
        (float("nan"), Rule(), r"x\.sparsity: nan is out of range"),
        (0.5, Rule("globally"), r"x\.scope: 'globally' is unknown; known: layer, global\. Did you mean 'global'"),
        (0.5, Rule(pattern="2:3"), r"x\.pattern: '2:3' is unknown; known: none, 2:4, 4:8"),
        (0.7, Rule(pattern="2:4"), r"x\.pattern: 2:4 leaves 0\.5 of the weights zero, but sparsity is 0\.7"),
    ],
)
def test_knobs_that_no_weights_can_have_are_refused(sparsity, rule, message):
    with pytest.raises(ConfigError, match=message):
        check_knobs("x", sparsity, rule)
