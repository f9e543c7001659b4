import numpy as np
import pytest
import torch
from torch import nn

from compressors.base import Material
from compressors.codebook import Codebook
from compressors.huffman import code_lengths
from compressors.low_rank import LowRank
from search_spaces.errors import ConfigError
from tests.compressors.convnet import convnet, images
from tests.compressors.encoders import encoder

NONE = Material([])


@pytest.mark.parametrize("make", [encoder, convnet])
@pytest.mark.parametrize("bits", [1, 3, 4])
def test_every_matrix_has_at_most_that_many_values_and_nothing_else_changes(make, bits: int) -> None:
    model, compressor = make(), Codebook(bits)
    small, before = compressor.apply(model, NONE), dict(model.named_parameters())
    changed = {change.where for change in compressor.report().changed}
    for name, parameter in small.named_parameters():
        if name.removesuffix(".weight") in changed:
            assert len(parameter.unique()) <= 2**bits
        else:
            assert torch.equal(parameter, before[name])
    n_matrices = sum(isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) for module in model.modules())
    assert len(changed) == n_matrices


def test_every_weight_goes_to_its_nearest_value() -> None:
    model = encoder()
    small = Codebook(3).apply(model, NONE)
    old, new = model.layers[0].up.weight.flatten(), small.layers[0].up.weight.flatten()
    values = new.unique()
    assert torch.equal((old - new).abs(), (old[:, None] - values).abs().min(1).values)


def test_the_sizes_are_those_of_an_independent_count() -> None:
    compressor, model = Codebook(3), nn.Sequential(nn.Linear(40, 20))
    small = compressor.apply(model, NONE)
    figures, weights = compressor.report().figures, small[0].weight.detach().flatten()
    counts = torch.unique(weights, return_counts=True)[1].double()
    shares = counts / counts.sum()
    entropy = float(-(shares * shares.log2()).sum())
    assert figures["entropy_bits"] == pytest.approx(entropy)
    assert figures["bytes_before"] == 800 * 4
    assert figures["bytes_packed"] == 800 * 3 / 8 + 8 * 4
    overhead = 8 * 4 + 8  # centroids and code lengths
    assert 800 * entropy / 8 <= figures["bytes_huffman"] - overhead <= 800 * (entropy + 1) / 8 + 1
    assert compressor.report().changed[0].after == figures["bytes_packed"]


def test_fewer_bits_are_smaller_and_further_away() -> None:
    sizes, errors = [], []
    for bits in (2, 4, 8):
        compressor, model = Codebook(bits), encoder()
        small = compressor.apply(model, NONE)
        sizes.append(compressor.report().figures["bytes_packed"])
        errors.append(float((small.head.dense.weight - model.head.dense.weight).detach().norm()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_pruned_weights_stay_pruned() -> None:
    model = encoder()
    weight = model.layers[0].up.weight
    weight.data[weight.abs() < weight.abs().median()] = 0
    compressor = Codebook(2)
    small = compressor.apply(model, NONE).layers[0].up.weight
    assert torch.equal(small == 0, weight == 0)
    assert len(small.unique()) <= 4


def test_factored_matrices_are_clustered_too() -> None:
    compressor = Codebook(4)
    compressor.apply(LowRank(0.5, "ffn", aware=False).apply(encoder(), NONE), NONE)
    assert "layers.0.up.inner" in [change.where for change in compressor.report().changed]


def test_the_argument_is_untouched_and_no_memory_is_shared() -> None:
    model = convnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = Codebook().apply(model, NONE)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_report_says_that_nothing_gets_faster_and_why_vectors_stay() -> None:
    compressor = Codebook()
    compressor.apply(convnet(), NONE)
    reasons = {skip.where: skip.why for skip in compressor.report().skipped}
    assert reasons["runtime"].startswith("simulated")
    assert reasons["7.bias"] == "not a matrix"


def test_a_second_time_and_a_model_without_matrices_are_refused() -> None:
    once = Codebook(4).apply(encoder(), NONE)
    with pytest.raises(ConfigError, match=r"0 of 17 matrices have more than 16 values"):
        Codebook(4).apply(once, NONE)
    with pytest.raises(ConfigError, match=r"0 of 0 matrices"):
        Codebook(4).apply(nn.LayerNorm(4), NONE)


def test_32_bits_leave_the_model_as_it_is() -> None:
    compressor = Codebook(32)
    assert torch.equal(compressor.apply(convnet(), NONE)(images()), convnet()(images()))
    assert [skip.why for skip in compressor.report().skipped] == ["bits is 32"]


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=rf"codebook\.bits: {bits} is out of range; 1 to 8, or 32"):
        Codebook(bits)


def test_huffman_lengths_are_those_of_a_known_code_and_leave_no_gap() -> None:
    # Cormen et al., Introduction to Algorithms, figure 16.3
    assert code_lengths(np.array([45, 13, 12, 16, 9, 5])).tolist() == [1, 3, 3, 3, 4, 4]
    assert code_lengths(np.array([0, 7, 0])).tolist() == [0, 1, 0]
    lengths = code_lengths(np.arange(1, 200))
    assert sum(2.0**-lengths) == 1
