import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.errors import ConfigError
from search_spaces.families.groups import Group, HasUnitGroups, Member, block_indices, cut_units
from tests.compressors.tiny_cnn import cnn, pictures


def test_a_block_of_neighbours_belongs_to_one_unit():
    assert block_indices(np.array([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]


def test_channels_that_are_added_shrink_together_with_all_that_reads_and_normalises_them():
    model = cnn()
    assert isinstance(model, HasUnitGroups)
    kept = {"channels.stream": np.arange(0, 16, 2), "channels.1": np.array([0, 3, 5])}
    cut = cut_units(model, model.unit_groups(), kept)
    assert cut.stem.weight.shape == (8, 3, 3, 3)
    assert cut.blocks[0].first.weight.shape == (12, 8, 3, 3)
    assert cut.blocks[1].first.weight.shape == (3, 8, 3, 3)
    assert cut.blocks[1].depthwise.weight.shape == (3, 1, 3, 3)
    assert cut.blocks[1].second_norm.running_var.shape == (8,)
    assert cut.head.weight.shape == (3, 8 * 16)
    (images,), _ = pictures().batches[0]
    assert cut(images).shape == (6, 3)


def test_modules_know_their_new_shape():
    model = cnn()
    cut = cut_units(model, model.unit_groups(), {"channels.stream": np.arange(8), "channels.0": np.arange(5)})
    block = cut.blocks[0]
    assert (block.first.in_channels, block.first.out_channels, block.first.groups) == (8, 5, 1)
    assert (block.depthwise.in_channels, block.depthwise.out_channels, block.depthwise.groups) == (5, 5, 5)
    assert (block.second_norm.num_features, cut.head.in_features, cut.head.out_features) == (8, 128, 3)


def test_the_argument_is_untouched_and_keeping_everything_changes_no_logit():
    model = cnn()
    (images,), _ = pictures().batches[0]
    before = model(images)
    whole = cut_units(model, model.unit_groups(), {"channels.stream": np.arange(16)})
    assert torch.equal(whole(images), before)
    cut = cut_units(model, model.unit_groups(), {"channels.stream": np.arange(2)})
    cut.stem.weight.data.zero_()
    assert torch.equal(model(images), before)


def test_a_kernel_for_every_multiple_of_a_depthwise_channel_goes_with_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4))
    members = (Member("0.weight"), Member("0.bias"), Member("1.weight", 0, 2), Member("1.bias", 0, 2))
    group = Group("channels.0", 4, members)
    cut = cut_units(model, [group], {"channels.0": np.array([1, 3])})
    assert (cut[1].groups, cut[1].in_channels, cut[1].out_channels) == (2, 2, 4)
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(cut(x), model(x)[:, [2, 3, 6, 7]], atol=1e-6)


def test_a_member_of_another_size_is_refused():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ConfigError, match=r"ffn\.0: 0\.weight has 4 entries on axis 0; 5 units of 1 need 5"):
        cut_units(model, [Group("ffn.0", 5, (Member("0.weight"),))], {"ffn.0": np.arange(2)})


def test_modules_that_cannot_be_cut_are_named():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.GroupNorm(2, 8))
    for tensor, kind in (("0.weight", "Conv2d of 2 groups"), ("1.weight", "GroupNorm")):
        with pytest.raises(ConfigError, match=rf"{tensor[0]}: a {kind} cannot be cut; Linear, Conv2d"):
            cut_units(model, [Group("channels.0", 8, (Member(tensor),))], {"channels.0": np.arange(4)})
