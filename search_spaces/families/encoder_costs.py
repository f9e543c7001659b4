"""What a text encoder costs, from its shape alone: parameters, multiply-accumulates, features for a latency predictor.

All figures are of one text as `TextEncoder` computes it: the last layer works for the first token only.
"""

from search_spaces.families.encoder_model import EncoderConfig


def parameters(config: EncoderConfig) -> int:
    """Return the number of weights, tables included."""
    width, rank = config.embedding, config.embedding_rank
    tables = config.vocab_size * (rank or width) + rank * width + (config.n_positions + config.n_token_types) * width
    project = (width + 1) * config.hidden if width != config.hidden else 0
    inner = [heads * config.head_size for heads in config.heads]
    attention = sum(4 * config.hidden * i + 3 * i + config.hidden for i in inner)
    ffn = sum(2 * config.hidden * f + f + config.hidden for f in config.ffn)
    norms = 2 * width + 4 * config.hidden * config.depth
    head = (config.hidden + 1) * (config.hidden + len(config.labels))
    return tables + project + attention + ffn + norms + head


def macs(config: EncoderConfig, n_tokens: int) -> int:
    """Return the multiply-accumulates of one forward pass over one text of ``n_tokens`` tokens."""
    return _outside(config, n_tokens) + sum(layer_macs(config, layer, n_tokens) for layer in range(config.depth))


def layer_macs(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the multiply-accumulates of one layer, from 0, in such a pass."""
    return _projection(config, layer, n_tokens) + _ffn(config, layer, n_tokens) + _attention(config, layer, n_tokens)


def features(config: EncoderConfig, n_tokens: int) -> dict[str, float]:
    """Return what the latency of one text at batch 1 is made of, each term with a physical meaning.

    Args:
        config: The shape.
        n_tokens: Length of the text.

    Returns:
        ``layers`` (fixed cost of the operators), ``*_gflop`` of each kind of matrix product over all layers but the
        last, ``last_gflop`` of the last (it works for one token, at another speed), ``outside_gflop`` of embedding
        and head, ``softmax_m`` and ``elementwise_m`` millions of elements, ``weights_mb`` read once a pass (float32).
        The constant term is left to the regression.
    """
    full, last = range(config.depth - 1), config.depth - 1
    asking = [*(n_tokens for _ in full), 1]
    inner = [heads * config.head_size for heads in config.heads]
    weights = sum(4 * config.hidden * i + 2 * config.hidden * f for i, f in zip(inner, config.ffn, strict=True))
    return {
        "layers": float(config.depth),
        "projection_gflop": 2e-9 * sum(_projection(config, layer, n_tokens) for layer in full),
        "ffn_gflop": 2e-9 * sum(_ffn(config, layer, n_tokens) for layer in full),
        "attention_gflop": 2e-9 * sum(_attention(config, layer, n_tokens) for layer in full),
        "last_gflop": 2e-9 * (_projection(config, last, n_tokens) + _ffn(config, last, n_tokens)),
        "outside_gflop": 2e-9 * _outside(config, n_tokens),
        "softmax_m": 1e-6 * n_tokens * sum(a * heads for a, heads in zip(asking, config.heads, strict=True)),
        "elementwise_m": 1e-6 * sum(a * (4 * config.hidden + f) for a, f in zip(asking, config.ffn, strict=True)),
        "weights_mb": 4e-6 * weights,
    }


def _asking(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return for how many tokens a layer computes its output."""
    return 1 if layer == config.depth - 1 else n_tokens


def _projection(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the MACs of query, key, value and out."""
    square = config.hidden * config.heads[layer] * config.head_size
    return 2 * square * n_tokens + 2 * square * _asking(config, layer, n_tokens)


def _ffn(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the MACs of up and down."""
    return 2 * config.hidden * config.ffn[layer] * _asking(config, layer, n_tokens)


def _attention(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the MACs of scores and weighted values; quadratic in the length."""
    return 2 * config.heads[layer] * config.head_size * n_tokens * _asking(config, layer, n_tokens)


def _outside(config: EncoderConfig, n_tokens: int) -> int:
    """Return the MACs of factored tables, the Linear after them, and the head."""
    project = config.embedding * config.hidden if config.embedding != config.hidden else 0
    tables = n_tokens * (config.embedding_rank * config.embedding + project)
    return tables + config.hidden * (config.hidden + len(config.labels))
