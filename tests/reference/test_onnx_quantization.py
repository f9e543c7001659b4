"""Artefacts of ours beside those of ONNX Runtime's own tools, and beside a simulation in torch."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch import Tensor, nn

from compressors.base import ArtefactCompressor, Run
from compressors.int8 import DynamicInt8
from compressors.static_int8 import StaticInt8
from compressors.weights_4bit import FourBitWeights
from nas.data.sources import load_data
from nas.data.tokenize import tokenize
from nas.data.tokens import Tokens
from nas.recipe import DataSettings, TeacherSettings
from nas.stages import compress
from nas.teacher import load_teacher
from tests.compressors.artefacts import DEVICE, artefact, constants, nodes
from tests.compressors.encoders import texts
from tests.conftest import needs_data


class Rows(CalibrationDataReader):
    """The calibration rows as ONNX Runtime wants them, one text a call."""

    def __init__(self, tokens: Tokens) -> None:
        self.feeds = iter(
            {
                "input_ids": tokens.ids[start:stop][None].astype(np.int64),
                "attention_mask": np.ones((1, stop - start), np.int64),
                "token_type_ids": tokens.types[start:stop][None].astype(np.int64),
            }
            for start, stop in zip(tokens.offsets, tokens.offsets[1:], strict=False)
        )

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.feeds, None)


def run(n_rows: int) -> Run:
    return partial(DEVICE.outputs, tokens=texts(n_rows, seed=1), batch=1)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The tiny encoder after ONNX Runtime's static quantizer, same rows."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "fp32.onnx").write_bytes(artefact())
    quantize_static(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        Rows(texts(40, seed=1)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    return (folder / "int8.onnx").read_bytes()


def test_static_weights_and_ranges_are_those_of_onnx_runtimes_quantizer(theirs: bytes) -> None:
    ours, made = StaticInt8().apply(artefact(), run(40)), constants(theirs)
    stored = constants(ours)
    products = nodes(ours, "MatMulIntegerToFloat")
    assert len(products) == 11
    for node in products:
        x, weight = node.input[2].removesuffix("_static_scale"), node.input[1].removesuffix("_columns_quantized")
        off = stored[node.input[1]].astype(int) - made[f"{weight}_quantized"]
        assert np.abs(off).max() <= 1  # where a weight lies in the middle of two levels
        assert (off != 0).mean() < 0.01
        np.testing.assert_allclose(stored[node.input[3]], made[f"{weight}_scale"], rtol=1e-6)
        np.testing.assert_allclose(stored[node.input[2]], made[f"{x}_scale"], rtol=1e-5)
        assert abs(int(stored[node.input[4]]) - int(made[f"{x}_zero_point"])) <= 1


def as_qdq(file: bytes) -> bytes:
    """Write every integer product as a float product of what its inputs stand for, in standard operators."""
    model = onnx.load_model_from_string(file)
    written = []
    for node in model.graph.node:
        if node.op_type != "MatMulIntegerToFloat":
            written.append(node)
            continue
        (x, weight, x_scale, scale, zero), (out,) = node.input[:5], node.output
        product = f"{out}.product" if len(node.input) == 7 else out
        written += [
            helper.make_node("DequantizeLinear", [x, x_scale, zero], [f"{out}.x"]),
            helper.make_node("DequantizeLinear", [weight, scale], [f"{out}.w"], axis=1),
            helper.make_node("MatMul", [f"{out}.x", f"{out}.w"], [product]),
        ]
        if product != out:
            written.append(helper.make_node("Add", [product, node.input[6]], [out]))
    del model.graph.node[:]
    model.graph.node.extend(written)
    return model.SerializeToString()


def test_the_integer_operators_compute_what_a_qdq_graph_says() -> None:
    ours = StaticInt8().apply(artefact(), run(40))
    said = [DEVICE.predict(file, texts(), 8) for file in (ours, as_qdq(ours))]
    exact = DEVICE.predict(artefact(), texts(), 8)
    assert np.abs(said[0] - said[1]).max() < 0.05 * np.abs(said[1] - exact).max()


@pytest.mark.parametrize("symmetric", [True, False])
def test_four_bit_weights_are_packed_as_onnx_runtimes_quantizer_packs_them_and_about_as_near(symmetric: bool) -> None:
    quantizer = MatMulNBitsQuantizer(onnx.load_model_from_string(artefact()), block_size=16, is_symmetric=symmetric)
    quantizer.process()
    made = constants(quantizer.model.model.SerializeToString())
    stored = constants(FourBitWeights(block=16, symmetric=symmetric, scope="matrices").apply(artefact()))
    for name in ("layers.0.query_key_value.weight", "layers.1.down.weight", "head.out.weight"):
        exact = constants(artefact())[name].T
        ours = unpacked(*(stored.get(f"{name}_columns_4bit{part}") for part in ("", "_scale", "_zero_point")))
        theirs = unpacked(*(made.get(f"{name}{part}") for part in ("_Q4", "_scales", "_zero_points")))
        assert ((ours - exact) ** 2).mean() < 1.1 * ((theirs - exact) ** 2).mean() < 0.02 * exact.var()


def unpacked(packed: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """The columns of a packed matrix, as `MatMulNBits` documents the format."""
    levels = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scale.shape, 16).astype(np.float32)
    zeros = np.float32(8) if zero is None else np.stack([zero & 15, zero >> 4], axis=-1)
    zeros = zeros if zero is None else zeros.reshape(len(zero), -1)[:, : scale.shape[1], None]
    return ((levels - zeros) * scale[..., None]).reshape(len(packed), -1)


def by_hand(rows: np.ndarray, block: int) -> np.ndarray:
    """Rows after 4 bits: in each block the weight farthest from 0 gets level 8 of its side, the other side has 7."""
    rounded = np.empty_like(rows)
    for row, start in itertools.product(range(len(rows)), range(0, rows.shape[1], block)):
        part = rows[row, start : start + block]
        farthest = part[np.abs(part).argmax()]
        across = np.abs(part[part * farthest < 0]).max(initial=0)
        step = max(abs(farthest) / 8, across / 7)
        rounded[row, start : start + block] = np.round(part / step) * step
    return rounded


@pytest.mark.parametrize("block", [16, 32])
def test_four_bit_tables_beside_integer_matrices_are_read_as_computed_by_hand(block: int) -> None:
    file = DynamicInt8().apply(FourBitWeights(block=block, scope="tables").apply(artefact()))
    probe = onnx.load_model_from_string(file)
    probe.graph.output.append(helper.make_tensor_value_info("words", onnx.TensorProto.FLOAT, None))
    ids = np.arange(100, dtype=np.int32)  # every word once
    tokens = Tokens(ids, np.zeros(100, np.uint8), np.arange(0, 101, 25), np.zeros(4, np.int64))
    (said,) = DEVICE.outputs(probe.SerializeToString(), tokens, 4)
    exact = constants(artefact())["word"]
    np.testing.assert_allclose(said["words"].reshape(100, -1), by_hand(exact, block), rtol=1e-5, atol=1e-7)
    assert len(nodes(file, "MatMulInteger")) == 11


def round_columns(linear: nn.Linear) -> None:
    """Round a weight to 127 levels on both sides of zero, a scale for each output."""
    scale = linear.weight.data.abs().amax(dim=1, keepdim=True) / 127
    linear.weight.data = torch.round(linear.weight.data / scale) * scale


def round_activations(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Round what a Linear reads to 256 levels between its smallest and its largest value."""
    (x,) = inputs
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round(-low / scale)
    return ((torch.round(x / scale) + zero).clamp(0, 255) - zero).mul(scale)


def batches(tokens: Tokens, size: int) -> Iterator[np.ndarray]:
    """The rows of the calls that the device makes."""
    for length in np.unique(tokens.lengths):
        alike = np.flatnonzero(tokens.lengths == length)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def round_table(table: nn.Embedding) -> None:
    """Round a table to 127 levels on both sides of zero, with one scale."""
    scale = table.weight.data.abs().max() / 127
    table.weight.data = torch.round(table.weight.data / scale) * scale


def pack_table(table: nn.Embedding) -> None:
    """Round a table to 4 bits in blocks of 32."""
    table.weight.data = torch.from_numpy(by_hand(table.weight.data.numpy(), 32))


def simulate_dynamic_int8(model: nn.Module, round_words: Callable[[nn.Embedding], None]) -> None:
    """Round in place what the artefact stores in few bits, and by hooks what enters its integer products."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            round_columns(module)
            module.register_forward_pre_hook(round_activations)
        if isinstance(module, nn.Embedding) and module is not model.embeddings.position:
            round_words(module)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "round_words"),
    [((DynamicInt8(),), round_table), ((FourBitWeights(scope="tables"), DynamicInt8()), pack_table)],
)
def test_the_dynamic_artefact_of_a_real_teacher_scores_as_its_simulation_in_torch(
    methods: Sequence[ArtefactCompressor], round_words: Callable[[nn.Embedding], None]
) -> None:
    folder = needs_data("text/sst2")
    teacher, _ = load_teacher(TeacherSettings(model=str(needs_data("teachers/sst2-minilm"))), ("negative", "positive"))
    files = {"source": "train", "validation": "dev", "test": "test"}
    data = load_data(DataSettings(**{part: str(folder / f"{name}.csv.gz") for part, name in files.items()}), 0)
    assert data.test is not None
    model = teacher.model
    artefact = DEVICE.export(model)
    splits = [tokenize(teacher.tokenizer, split, 128) for split in (data.validation, data.test)]
    exact = [DEVICE.predict(artefact, tokens, 8) for tokens in splits]
    small = compress(artefact, methods)
    int8 = [DEVICE.predict(small, tokens, 8) for tokens in splits]
    simulate_dynamic_int8(model, round_words)
    simulated = [np.empty_like(logits) for logits in int8]
    with torch.inference_mode():
        for tokens, logits in zip(splits, simulated, strict=True):
            for rows in batches(tokens, 8):
                logits[rows] = model(*tokens.collate(rows)).numpy()
    labels = np.concatenate([tokens.labels for tokens in splits])
    assert len(labels) == 872 + 1821
    exact, int8, simulated = (np.concatenate(logits) for logits in (exact, int8, simulated))
    scores = [float((logits.argmax(axis=1) == labels).mean()) for logits in (int8, simulated)]
    assert abs(scores[0] - scores[1]) <= 0.002
    assert (simulated.argmax(axis=1) != int8.argmax(axis=1)).mean() < 0.005
    assert np.abs(simulated - int8).mean() < 0.5 * np.abs(exact - int8).mean()
