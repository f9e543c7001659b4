import numpy as np
import torch

from compressors.base import Material
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


def material(n: int = 24, seed: int = 0) -> Material:
    """Return texts with padding in two batches."""
    tokens = texts(n, seed)
    halves = (np.arange(n // 2), np.arange(n // 2, n))
    return Material([(tuple(tokens.collate(rows)), torch.from_numpy(tokens.labels[rows])) for rows in halves])


def random_encoder(heads: tuple[int, ...] = (4, 4), ffn: tuple[int, ...] = (64, 96)) -> TextEncoder:
    """Return an encoder whose every weight matters, biases and norms, too."""
    model = encoder(heads, ffn)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def same_state(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    """Return whether a model still has these weights, no gradients, and its mode of evaluation."""
    now = model.state_dict()
    same = now.keys() == state.keys() and all(torch.equal(now[name], state[name]) for name in state)
    return same and not model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
