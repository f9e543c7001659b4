"""What a text encoder costs, from its shape alone: parameters, multiply-accumulates, features for a latency predictor.

All figures are of one text as `TextEncoder` computes it: the last layer works for the first token only.
"""

from search_spaces.families.encoder_model import EncoderConfig

LINEARS = ("query", "key", "value", "out", "up", "down")


def parameters(config: EncoderConfig) -> int:
    """Return the number of weights, tables included."""
    width, rank = config.embedding, config.embedding_rank
    tables = config.vocab_size * (rank or width) + rank * width + (config.n_positions + config.n_token_types) * width
    project = _project(config) + config.hidden if width != config.hidden else 0
    layers = sum(_layer(config, index) for index in set(config.owners))
    head = _head(config) + config.hidden + len(config.labels)
    return tables + project + 2 * width + layers + head


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
    weights = sum(_projection(config, layer, 1) + _ffn(config, layer, 1) for layer in range(config.depth))
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


def matrices(config: EncoderConfig) -> dict[str, tuple[int, int]]:
    """Return ``(out, in)`` of every Linear and ``(vocab, width)`` of the word table, those that are factored left out.

    Names are those of the modules, in the order of the model; layers that share weights have those of their first.
    """
    hidden, width = config.hidden, config.embedding
    found = {} if config.embedding_rank else {"embeddings.word": (config.vocab_size, width)}
    if width != hidden:
        found["embeddings.project"] = (hidden, width)
    for layer in sorted(set(config.owners)):
        inner, ffn = config.heads[layer] * config.head_size, config.ffn[layer]
        shapes = {**dict.fromkeys(("query", "key", "value"), (inner, hidden)), "out": (hidden, inner)}
        shapes |= {"up": (ffn, hidden), "down": (hidden, ffn)}
        found |= {f"layers.{layer}.{name}": shapes[name] for name in LINEARS}
    found |= {"head.dense": (hidden, hidden), "head.out": (len(config.labels), hidden)}
    factored = dict(config.ranks)
    return {name: shape for name, shape in found.items() if name not in factored}


def _asking(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return for how many tokens a layer computes its output."""
    return 1 if layer == config.depth - 1 else n_tokens


def _matrix(config: EncoderConfig, name: str, n_in: int, n_out: int) -> int:
    """Return the weights of a Linear without its bias, which are its MACs for one token; factored ones have fewer."""
    rank = dict(config.ranks).get(name, 0)
    return rank * (n_in + n_out) if rank else n_in * n_out


def _linear(config: EncoderConfig, layer: int, name: str) -> int:
    """Return the weights of one Linear of a layer without its bias."""
    width = config.ffn[layer] if name in ("up", "down") else config.heads[layer] * config.head_size
    return _matrix(config, f"layers.{config.owners[layer]}.{name}", config.hidden, width)


def _layer(config: EncoderConfig, layer: int) -> int:
    """Return all parameters of a layer."""
    biases = 3 * config.heads[layer] * config.head_size + config.ffn[layer] + 2 * config.hidden
    return sum(_linear(config, layer, name) for name in LINEARS) + biases + 4 * config.hidden


def _projection(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the MACs of query, key, value and out."""
    for_all = _linear(config, layer, "key") + _linear(config, layer, "value")
    for_asking = _linear(config, layer, "query") + _linear(config, layer, "out")
    return for_all * n_tokens + for_asking * _asking(config, layer, n_tokens)


def _ffn(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the MACs of up and down."""
    return (_linear(config, layer, "up") + _linear(config, layer, "down")) * _asking(config, layer, n_tokens)


def _attention(config: EncoderConfig, layer: int, n_tokens: int) -> int:
    """Return the MACs of scores and weighted values; quadratic in the length."""
    return 2 * config.heads[layer] * config.head_size * n_tokens * _asking(config, layer, n_tokens)


def _head(config: EncoderConfig) -> int:
    """Return the MACs of the head."""
    dense = _matrix(config, "head.dense", config.hidden, config.hidden)
    return dense + _matrix(config, "head.out", config.hidden, len(config.labels))


def _project(config: EncoderConfig) -> int:
    """Return the weights of the Linear after the tables, 0 where there is none."""
    width = config.embedding
    return _matrix(config, "embeddings.project", width, config.hidden) if width != config.hidden else 0


def _outside(config: EncoderConfig, n_tokens: int) -> int:
    """Return the MACs of factored tables, the Linear after them, and the head."""
    return n_tokens * (config.embedding_rank * config.embedding + _project(config)) + _head(config)
