"""How Hugging Face names the parts of each model type, beside our names; nothing but tables.

Read from the modelling code of transformers 5.23 (``models/<type>/modeling_<type>.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Naming:
    """The names of one model type.

    Attributes:
        base: Prefix of everything but the head in a classifier's state dict.
        modules: Our module -> theirs, ``{}`` standing for the number of the layer; both without the prefix.
        head: Our head module -> theirs with the prefix, where the prefix applies.
        fields: Field of `EncoderConfig` -> field of the Hugging Face config.
        head_activation: Activation of the head.
        layer_norm_eps: Set where the Hugging Face code fixes it; None = read the config.
        has_types: Whether there is a segment table.
        offset_by_padding: Whether positions start after the padding id (RoBERTa).
    """

    base: str
    modules: Mapping[str, str]
    head: Mapping[str, str]
    fields: Mapping[str, str]
    head_activation: str
    layer_norm_eps: float | None = None
    has_types: bool = True
    offset_by_padding: bool = False


_TABLES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.segment": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}
_BERT_LAYER = {
    "layers.{}.query": "encoder.layer.{}.attention.self.query",
    "layers.{}.key": "encoder.layer.{}.attention.self.key",
    "layers.{}.value": "encoder.layer.{}.attention.self.value",
    "layers.{}.out": "encoder.layer.{}.attention.output.dense",
    "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.up": "encoder.layer.{}.intermediate.dense",
    "layers.{}.down": "encoder.layer.{}.output.dense",
    "layers.{}.ffn_norm": "encoder.layer.{}.output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "layers.{}.query": "transformer.layer.{}.attention.q_lin",
    "layers.{}.key": "transformer.layer.{}.attention.k_lin",
    "layers.{}.value": "transformer.layer.{}.attention.v_lin",
    "layers.{}.out": "transformer.layer.{}.attention.out_lin",
    "layers.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
    "layers.{}.up": "transformer.layer.{}.ffn.lin1",
    "layers.{}.down": "transformer.layer.{}.ffn.lin2",
    "layers.{}.ffn_norm": "transformer.layer.{}.output_layer_norm",
}
_FIELDS = {
    "vocab_size": "vocab_size",
    "n_positions": "max_position_embeddings",
    "n_token_types": "type_vocab_size",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "depth": "num_hidden_layers",
    "ffn": "intermediate_size",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "pad_token_id": "pad_token_id",
}
_DISTILBERT_FIELDS = {
    "vocab_size": "vocab_size",
    "n_positions": "max_position_embeddings",
    "hidden": "dim",
    "heads": "n_heads",
    "depth": "n_layers",
    "ffn": "hidden_dim",
    "activation": "activation",
    "dropout": "dropout",
    "pad_token_id": "pad_token_id",
}
_BERT = Naming(
    base="bert.",
    modules=_TABLES | _BERT_LAYER,
    head={"head.dense": "bert.pooler.dense", "head.out": "classifier"},
    fields=_FIELDS,
    head_activation="tanh",
)
_ROBERTA = replace(
    _BERT,
    base="roberta.",
    head={"head.dense": "classifier.dense", "head.out": "classifier.out_proj"},
    offset_by_padding=True,
)

NAMING: Mapping[str, Naming] = {
    "bert": _BERT,
    "distilbert": Naming(
        base="distilbert.",
        modules=_TABLES | _DISTILBERT_LAYER,
        head={"head.dense": "pre_classifier", "head.out": "classifier"},
        fields=_DISTILBERT_FIELDS,
        head_activation="relu",
        layer_norm_eps=1e-12,
        has_types=False,
    ),
    "roberta": _ROBERTA,
    "electra": replace(
        _ROBERTA,
        base="electra.",
        modules=_TABLES | _BERT_LAYER | {"embeddings.project": "embeddings_project"},
        fields=_FIELDS | {"embedding": "embedding_size"},
        head_activation="gelu",
        offset_by_padding=False,
    ),
}
