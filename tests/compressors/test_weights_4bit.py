import itertools

import numpy as np
import pytest

from compressors.blocks import pack, quantize_blocks, unpack
from compressors.half import Half
from compressors.int8 import DynamicInt8
from compressors.sizes import sizes_of_artefact
from compressors.weights_4bit import FourBitWeights
from search_spaces.errors import ConfigError
from tests.compressors.artefacts import artefact, constants, error, nodes
from tests.contracts.recount import Graph, is_counted


def draws(n: int = 20, length: int = 70) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(n, length)).astype(np.float32)
    values[3], values[4], values[5] = 0, np.abs(values[4]), -np.abs(values[5])
    return values


@pytest.mark.parametrize(("bits", "symmetric", "block"), itertools.product((4, 8), (True, False), (16, 32, 128)))
def test_packed_weights_unpack_to_within_half_a_step(bits: int, symmetric: bool, block: int) -> None:
    values = draws()
    levels, scale, zero = quantize_blocks(values, block, bits, symmetric)
    again = unpack(pack(levels, bits), bits, block)
    assert pack(levels, bits).nbytes == levels.size * bits // 8
    assert (again == levels).all()
    restored = (again.astype(np.float32) - zero[..., None]) * scale[..., None]
    steps = np.repeat(np.abs(scale), block, axis=1)[:, :70]
    assert np.all(np.abs(restored.reshape(20, -1)[:, :70] - values) <= 0.5001 * steps)
    assert (restored[3] == 0).all()


def test_the_larger_end_of_a_symmetric_block_gets_the_extra_level() -> None:
    levels, scale, zero = quantize_blocks(np.array([[4.0, -1.0] * 8], np.float32), 16, 4, True)
    assert (levels[0, 0, 0], zero.item(), scale.item()) == (0, 8, -0.5)
    assert quantize_blocks(np.array([[-4.0, 1.0] * 8], np.float32), 16, 4, True)[1].item() == 0.5


def test_an_odd_number_of_levels_is_packed_low_half_first() -> None:
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]
    assert unpack(np.array([[0x21, 0x03]], np.uint8), 4, 3).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(("symmetric", "table_bits", "block"), itertools.product((True, False), (4, 8), (16, 32)))
def test_the_artefact_runs_and_says_about_the_same(symmetric: bool, table_bits: int, block: int) -> None:
    file = FourBitWeights(symmetric=symmetric, table_bits=table_bits, block=block).apply(artefact())
    assert nodes(file, "MatMulNBits")
    assert nodes(file, "GatherBlockQuantized")
    assert error(file) < 0.4


def test_smaller_blocks_and_wider_tables_are_nearer() -> None:
    errors = [error(FourBitWeights(block=block).apply(artefact())) for block in (16, 32)]
    assert errors[0] < errors[1]
    tables = [error(FourBitWeights(scope="tables", table_bits=bits).apply(artefact())) for bits in (8, 4)]
    assert tables[0] < 0.1 * tables[1]


def test_the_file_holds_half_a_byte_a_weight_and_four_bytes_a_block() -> None:
    compressor = FourBitWeights(block=16)
    stored = constants(compressor.apply(artefact()))
    table = stored["word_rows_4bit"]
    assert (table.dtype, table.shape) == (np.uint8, (100, 16))
    assert stored["word_rows_4bit_scale"].shape == (100, 2)
    assert stored["head.dense.weight_columns_4bit"].shape == (32, 2, 8)
    words = next(change for change in compressor.report().changed if change.where == "words")
    assert words.after == 100 * 32 // 2 + 100 * 2 * 4


def test_zero_points_cost_half_a_byte_a_block() -> None:
    sizes = {each: FourBitWeights(block=16, symmetric=each) for each in (True, False)}
    for compressor in sizes.values():
        compressor.apply(artefact())
    words = {each: compressor.report().changed[0] for each, compressor in sizes.items()}
    assert words[False].after == words[True].after + 100


def test_the_scope_leaves_the_rest_to_another_method() -> None:
    compressor = FourBitWeights(scope="tables")
    file = compressor.apply(artefact())
    assert not nodes(file, "MatMulNBits")
    assert {skip.why for skip in compressor.report().skipped} == {"the scope is tables"}
    both = DynamicInt8().apply(file)
    assert nodes(both, "MatMulInteger")
    assert nodes(both, "GatherBlockQuantized")
    assert error(both) < 0.4
    assert not nodes(FourBitWeights(scope="matrices").apply(artefact()), "GatherBlockQuantized")


def test_four_bit_tables_integer_matrices_and_half_positions_are_reported_as_they_are_in_the_file() -> None:
    files, methods = [artefact()], (FourBitWeights(block=16, scope="tables"), DynamicInt8(), Half())
    for method in methods:
        files.append(method.apply(files[-1]))
        before, after = Graph(files[-2]), Graph(files[-1])
        assert all(is_counted(before, after, change) for change in method.report().changed)
        assert method.report().figures == {"bytes_before": len(files[-2]), "bytes_after": len(files[-1])}
    sizes = [sizes_of_artefact(file) for file in files]
    assert len({each.parameters for each in sizes}) == 1
    assert all(after.size_bytes < before.size_bytes for before, after in itertools.pairwise(sizes))
    words = next(tensor for tensor in sizes[-1].tensors if tensor.name == "word_rows_4bit")
    assert (words.shape, words.size_bytes, words.bits) == ((100, 32), 1600, 4)
    positions = next(tensor for tensor in sizes[-1].tensors if tensor.name == "position_float16")
    assert (positions.shape, positions.size_bytes, positions.bits) == ((32, 32), 2048, 16)  # no integers: it is sliced
    assert error(files[-1]) < 0.4
    assert error(files[-1], files[-2]) < 0.03


def test_a_matrix_with_fewer_rows_than_a_block_stays_and_is_reported() -> None:
    compressor = FourBitWeights(block=64)
    file = compressor.apply(artefact())
    whys = {skip.where: skip.why for skip in compressor.report().skipped}
    assert whys["head.out.matmul"] == "its 32 rows are fewer than a block of 64"
    assert whys["words"] == "its 32 columns are fewer than a block of 64"
    assert {node.output[0] for node in nodes(file, "MatMulNBits")} == {"layers.0.down.matmul", "layers.1.down.matmul"}


def test_a_block_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match="first: words, its 32 columns are fewer than a block of 128"):
        FourBitWeights(block=128).apply(artefact())


@pytest.mark.parametrize("block", [0, 8, 24, -32])
def test_a_block_that_is_no_power_of_two_from_16_is_refused(block: int) -> None:
    with pytest.raises(ConfigError, match=f"weights_4bit.block: {block} is no block size; a power of two from 16"):
        FourBitWeights(block=block)


def test_unknown_scopes_and_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="'table' is unknown; known: all, matrices, tables"):
        FourBitWeights(scope="table")
    with pytest.raises(ConfigError, match="table_bits: 2 is out of range; 4 or 8"):
        FourBitWeights(table_bits=2)


def test_excluded_nodes_stay_and_the_argument_is_not_changed() -> None:
    file = bytes(artefact())
    compressor = FourBitWeights(exclude="layers.0.*")
    result = compressor.apply(file)
    assert file == artefact()
    assert result == FourBitWeights(exclude="layers.0.*").apply(file)
    assert {node.name.rsplit(".", 2)[0] for node in nodes(result, "MatMul")} == {"layers.0"}
    with pytest.raises(ConfigError, match=r"weights_4bit\.exclude: 'nothing' matches none"):
        FourBitWeights(exclude="nothing").apply(file)


def test_disabled_returns_the_model_as_it_is() -> None:
    assert FourBitWeights(enabled=False).apply(artefact()) == artefact()
