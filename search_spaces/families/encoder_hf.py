"""Text encoders from and to Hugging Face folders; the logits are the same on both sides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from search_spaces.errors import ConfigError
from search_spaces.families.encoder_files import model_folder, read_config, read_weights, weight_names
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.encoder_names import NAMING, Naming
from search_spaces.registry import unknown_name

ARCHITECTURES = {
    "bert": "BertForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "electra": "ElectraForSequenceClassification",
}


def from_hf(model: str, labels: Sequence[str] | None = None, revision: str | None = None) -> tuple[TextEncoder, bool]:
    """Return a Hugging Face encoder as a `TextEncoder` in float32 and evaluation mode, and whether it can classify.

    A base model gets a fresh output layer, drawn from a fixed seed. Where the model's class names are the given ones
    in another order, its outputs are put into the given order.

    Args:
        model: Local folder or hub id; config.json and safetensors.
        labels: Class names of the data; None takes the model's own.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ConfigError: The model is missing, of an unknown type, pickled, brings code, or has another number of labels.
        StateError: A weights file is damaged.
    """
    folder = model_folder(model, revision)
    kind, hf = _read_config(model, folder)
    own = _label_names(hf)
    theirs = read_weights(folder)
    has_head = f"{NAMING[kind].head['head.out']}.weight" in theirs
    names = tuple(labels) if labels is not None else own
    if has_head and len(names) != len(own):
        raise ConfigError(
            f"teacher.model: {model} tells {len(own)} labels apart ({', '.join(own)}), the data has {len(names)} "
            f"({', '.join(names)}); both need the same number. Use the data it was trained on, or a base model with "
            "teacher.finetune."
        )
    encoder = _encoder(_config(kind, hf, names), theirs, model)
    if has_head:
        _reorder(encoder.head.out, own, names)
    return encoder.eval(), has_head


def trained_labels(model: str, revision: str | None = None) -> tuple[str, ...] | None:
    """Return the class names of a model that can classify, without loading its weights; None of a base model.

    Args:
        model: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ConfigError: The model is missing, of an unknown type, or brings code.
        StateError: A weights file is damaged.
    """
    folder = model_folder(model, revision)
    kind, hf = _read_config(model, folder)
    return _label_names(hf) if f"{NAMING[kind].head['head.out']}.weight" in weight_names(folder) else None


def _read_config(model: str, folder: Path) -> tuple[str, Any]:
    """Return the type of a model and its config as transformers reads it."""
    raw = read_config(folder)
    kind = str(raw.get("model_type"))
    if kind not in NAMING:
        raise unknown_name(f"teacher.model {model}: model_type", kind, list(NAMING))
    return kind, AutoConfig.for_model(**{**raw, "model_type": kind})


def _label_names(hf: Any) -> tuple[str, ...]:
    """Return the class names of a Hugging Face config in the order of the outputs."""
    return tuple(str(hf.id2label[index]) for index in sorted(hf.id2label))


def to_hf(model: TextEncoder) -> tuple[Any, dict[str, Tensor]]:
    """Return the transformers config and state dict of the same classifier.

    Raises:
        ConfigError: Layers differ in width or share weights, heads do not fill the hidden width, or a matrix is
            factored.
    """
    config = model.config
    if not config.is_uniform:
        raise ConfigError(
            f"student: heads {config.heads}, FFN {config.ffn} and rank {config.embedding_rank}, {len(config.ranks)} "
            f"factored Linears and {config.depth - len(set(config.owners))} layers with shared weights do not fit a "
            f"plain {config.model_type}; one FFN width, {config.hidden // config.head_size} heads everywhere, rank 0 "
            "and own weights do. "
            "Search with space.mode: uniform, or load it with nas.load_student."
        )
    naming = NAMING[config.model_type]
    state = {
        theirs: tensor.detach().clone().contiguous()
        for ours, tensor in model.state_dict().items()
        for theirs in [_their_name(ours, naming)]
    }
    if config.position_offset:
        key = f"{naming.base}{naming.modules['embeddings.position']}.weight"
        state[key] = torch.cat([state[key].new_zeros(config.position_offset, config.embedding), state[key]])
    return AutoConfig.for_model(config.model_type, **_hf_fields(config, naming)), state


def save_hf(model: TextEncoder, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``, which ``AutoModelForSequenceClassification`` loads.

    Args:
        model: A uniform encoder.
        folder: Created if missing; files of these names are replaced.

    Raises:
        ConfigError: As `to_hf`.
    """
    config, state = to_hf(model)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(target)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def _config(kind: str, hf: Any, labels: tuple[str, ...]) -> EncoderConfig:
    """Return our config of a Hugging Face one."""
    naming = NAMING[kind]
    if getattr(hf, "position_embedding_type", None) not in (None, "absolute"):
        raise ConfigError(
            f"teacher.model: position_embedding_type {hf.position_embedding_type!r} is not supported; absolute is."
        )
    fields = {ours: getattr(hf, theirs) for ours, theirs in naming.fields.items()}
    depth, heads, ffn = fields.pop("depth"), fields["heads"], fields["ffn"]
    offset = int(fields["pad_token_id"] or 0) + 1 if naming.offset_by_padding else 0
    return EncoderConfig(
        model_type=kind,
        vocab_size=fields["vocab_size"],
        n_positions=fields["n_positions"] - offset,
        n_token_types=fields["n_token_types"] if naming.has_types else 0,
        hidden=fields["hidden"],
        embedding=fields.get("embedding", fields["hidden"]),
        embedding_rank=0,
        head_size=fields["hidden"] // heads,
        heads=(heads,) * depth,
        ffn=(ffn,) * depth,
        activation=fields["activation"],
        head_activation=naming.head_activation,
        layer_norm_eps=naming.layer_norm_eps or fields["layer_norm_eps"],
        dropout=float(fields["dropout"]),
        pad_token_id=int(fields["pad_token_id"] or 0),
        position_offset=offset,
        labels=labels,
    )


def _hf_fields(config: EncoderConfig, naming: Naming) -> dict[str, Any]:
    """Return the keyword arguments of the Hugging Face config."""
    ours: dict[str, Any] = {
        **config.to_json(),
        "heads": config.heads[0],
        "ffn": config.ffn[0],
        "depth": config.depth,
        "n_positions": config.n_positions + config.position_offset,
    }
    return {
        **{theirs: ours[name] for name, theirs in naming.fields.items()},
        "id2label": dict(enumerate(config.labels)),
        "label2id": {label: index for index, label in enumerate(config.labels)},
        "architectures": [ARCHITECTURES[config.model_type]],
    }


def _encoder(config: EncoderConfig, theirs: dict[str, Tensor], model: str) -> TextEncoder:
    """Return the model with the loaded weights; what is missing of the head is drawn from a fixed seed."""
    naming = NAMING[config.model_type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TextEncoder(config)
    state = encoder.state_dict()
    for ours, fresh in state.items():
        found = _find(theirs, _their_name(ours, naming), naming)
        if found is None and ours.startswith("head."):
            continue
        if found is not None and ours == "embeddings.position.weight":
            found = found[config.position_offset :]
        if found is None or found.shape != fresh.shape:
            what = "is missing" if found is None else f"has shape {tuple(found.shape)}, not {tuple(fresh.shape)}"
            raise ConfigError(
                f"teacher.model: {model}: weight {_their_name(ours, naming)} {what}; "
                "config.json and weights must belong together. Export the model again with save_pretrained."
            )
        state[ours] = found
    encoder.load_state_dict(state)
    return encoder


def _find(theirs: dict[str, Tensor], name: str, naming: Naming) -> Tensor | None:
    """Return a tensor by its name; base models have no prefix, old files call LayerNorm's weights gamma and beta."""
    bare = name.removeprefix(naming.base)
    old = [
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for n in (name, bare)
    ]
    return next((theirs[candidate] for candidate in (name, bare, *old) if candidate in theirs), None)


def _their_name(ours: str, naming: Naming) -> str:
    """Return Hugging Face's name of one of our weights, e.g. ``layers.3.up.bias``."""
    module, _, leaf = ours.rpartition(".")
    if module in naming.head:
        return f"{naming.head[module]}.{leaf}"
    parts = module.split(".")
    number = parts[1] if parts[0] == "layers" else ""
    general = ".".join([parts[0], "{}", *parts[2:]]) if number else module
    return f"{naming.base}{naming.modules[general].format(number)}.{leaf}"


def _reorder(out: nn.Linear, own: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Put the rows of the output layer into the wanted order where the names are the same; else leave them."""
    lower = [name.lower() for name in own]
    same = len(set(lower)) == len(lower) and sorted(lower) == sorted(name.lower() for name in wanted)
    if own == wanted or not same:
        return
    order = [lower.index(name.lower()) for name in wanted]
    out.weight.data, out.bias.data = out.weight.data[order], out.bias.data[order]
