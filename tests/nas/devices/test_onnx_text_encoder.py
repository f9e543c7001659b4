import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from nas.devices.base import Format
from nas.devices.onnx_text_encoder import build_onnx
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_model import ACTIVATIONS, EncoderConfig, TextEncoder

BERT = EncoderConfig(
    model_type="bert",
    vocab_size=100,
    n_positions=40,
    n_token_types=2,
    hidden=48,
    embedding=48,
    embedding_rank=0,
    head_size=8,
    heads=(6, 3, 5),
    ffn=(64, 96, 32),
    activation="gelu",
    head_activation="tanh",
    layer_norm_eps=1e-12,
    dropout=0.1,
    pad_token_id=0,
    position_offset=0,
    labels=("a", "b", "c"),
)
SHAPES = {
    "bert": BERT,
    "uniform": replace(BERT, heads=(6, 6), ffn=(64, 64)),
    "one layer": replace(BERT, heads=(2,), ffn=(32,)),
    "distilbert without segments": replace(BERT, n_token_types=0, head_activation="relu"),
    "roberta with one segment": replace(BERT, n_token_types=1, position_offset=1),
    "electra with a projection": replace(BERT, embedding=32, head_activation="gelu"),
    "low-rank words": replace(BERT, embedding_rank=16),
    "low-rank words and a projection": replace(BERT, embedding=32, embedding_rank=16),
    "factored everywhere": replace(
        BERT,
        embedding=32,
        ranks=(
            *((f"layers.{layer}.{name}", 7) for layer in (0, 2) for name in ("query", "value", "out", "up", "down")),
            ("embeddings.project", 5),
            ("head.dense", 6),
            ("head.out", 2),
        ),
    ),
    "shared": replace(BERT, heads=(6,) * 4, ffn=(64,) * 4, sharing=(0, 0, 2, 2)),
}


def encoder(config: EncoderConfig) -> TextEncoder:
    """Return a model whose logits depend strongly on every weight."""
    torch.manual_seed(0)
    model = TextEncoder(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def session(file: bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def int8(file: bytes, folder: Path) -> bytes:
    (folder / "fp32.onnx").write_bytes(file)
    quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    return (folder / "int8.onnx").read_bytes()


def padded_batch(config: EncoderConfig, rows: int, tokens: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + tokens)
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=generator)
    types = torch.randint(0, max(config.n_token_types, 1), (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, max(1, tokens - 3 * row) :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def run(runtime: onnxruntime.InferenceSession, batch: dict[str, torch.Tensor]) -> np.ndarray:
    return runtime.run(None, {wanted.name: batch[wanted.name].numpy() for wanted in runtime.get_inputs()})[0]


def expected(model: TextEncoder, batch: dict[str, torch.Tensor]) -> np.ndarray:
    with torch.inference_mode():
        return model(**batch).numpy()


@pytest.mark.parametrize("kind", ["onnxruntime", "onnx"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_graph_gives_the_logits_of_the_module_with_and_without_padding(shape: str, kind: Format) -> None:
    model = encoder(SHAPES[shape])
    runtime = session(build_onnx(model, kind))
    for rows, tokens in ((1, 1), (1, 16), (4, 17), (2, SHAPES[shape].n_positions)):
        batch = padded_batch(model.config, rows, tokens)
        np.testing.assert_allclose(run(runtime, batch), expected(model, batch), atol=1e-4)


@pytest.mark.parametrize("kind", ["onnxruntime", "onnx"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_of_the_module_has_its_node_in_layers_and_head(activation: str, kind: Format) -> None:
    model = encoder(replace(BERT, activation=activation, head_activation=activation))
    batch = padded_batch(model.config, 3, 12)
    np.testing.assert_allclose(run(session(build_onnx(model, kind)), batch), expected(model, batch), atol=1e-4)


def test_the_portable_graph_holds_standard_operators_only_and_is_inferable() -> None:
    file = onnx.load_from_string(build_onnx(encoder(BERT), "onnx"))
    onnx.checker.check_model(file, full_check=True)
    assert {entry.domain for entry in file.opset_import} == {""}
    assert {node.domain for node in file.graph.node} == {""}


def test_a_format_that_is_no_onnx_is_refused() -> None:
    with pytest.raises(ConfigError, match="ONNX dialect: 'torch' is unknown; known: onnxruntime, onnx"):
        build_onnx(encoder(BERT), "torch")


@pytest.mark.parametrize("n_token_types", [0, 1])
def test_a_model_with_fewer_than_two_segments_has_no_input_for_them(n_token_types: int) -> None:
    runtime = session(build_onnx(encoder(replace(BERT, n_token_types=n_token_types))))
    assert [each.name for each in runtime.get_inputs()] == ["input_ids", "attention_mask"]


def test_a_model_in_training_mode_is_exported_without_dropout_and_stays_in_it() -> None:
    model = encoder(BERT)
    quiet = build_onnx(model)
    model.train()
    assert build_onnx(model) == quiet
    assert model.training


def test_the_file_is_valid_and_tells_the_shape_of_its_model() -> None:
    file = onnx.load_from_string(build_onnx(encoder(BERT)))
    onnx.checker.check_model(file)
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert EncoderConfig.from_json(json.loads(metadata["config"])) == BERT
    assert metadata["vocab_size"] == "100"


@pytest.mark.parametrize("shape", ["bert", "low-rank words and a projection"])
def test_dynamic_quantization_takes_the_graph_without_options_and_stays_close(shape: str, tmp_path: Path) -> None:
    model = encoder(SHAPES[shape])
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    batch = padded_batch(model.config, 4, 17)
    logits = run(session(int8(build_onnx(model), tmp_path)), batch)
    assert np.abs(logits - expected(model, batch)).max() < 0.1
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert "MatMul" not in kinds


@pytest.mark.parametrize("quantized", [False, True])
def test_the_runtime_does_not_fuse_the_sums_into_its_slow_kernel(quantized: bool, tmp_path: Path) -> None:
    file = build_onnx(encoder(SHAPES["uniform"]))
    session(int8(file, tmp_path) if quantized else file, tmp_path / "optimized.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "SkipLayerNormalization" not in kinds
    assert kinds.count("LayerNormalization") == 5
    assert kinds.count("DynamicQuantizeMatMul") == (11 if quantized else 0)
