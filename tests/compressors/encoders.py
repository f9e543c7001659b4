import numpy as np
import torch

from nas.data.tokens import Tokens
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder


def encoder(heads: tuple[int, ...] = (4, 4), ffn: tuple[int, ...] = (64, 96), dropout: float = 0.1) -> TextEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        "bert", 100, 32, 2, 32, 32, 0, 8, heads, ffn, "gelu", "tanh", 1e-12, dropout, 0, 0, ("no", "yes")
    )
    return TextEncoder(config).eval()


def texts(n: int = 96, seed: int = 0) -> Tokens:
    """Rows whose label is whether the second token is an even one."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(1, 100, offsets[-1]).astype(np.int32)
    return Tokens(ids, np.zeros(len(ids), np.uint8), offsets, (ids[offsets[:-1] + 1] % 2).astype(np.int64))
