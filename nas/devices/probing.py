"""Whether a device works, tried out: a tiny encoder is exported and measured on it."""

from nas.devices.base import Workload
from nas.devices.settings import open_device
from nas.recipe import DeviceSettings
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder

TINY = EncoderConfig(
    model_type="bert",
    vocab_size=100,
    n_positions=64,
    n_token_types=2,
    hidden=64,
    embedding=64,
    embedding_rank=0,
    head_size=32,
    heads=(2,),
    ffn=(128,),
    activation="gelu",
    head_activation="tanh",
    layer_norm_eps=1e-12,
    dropout=0.0,
    pad_token_id=0,
    position_offset=0,
    labels=("a", "b"),
)
CALL = Workload(1, 16)


def probe(settings: DeviceSettings) -> str:
    """Return in words that a device works.

    Args:
        settings: Resolved.

    Raises:
        NasError: It does not; the message says why, and what to do.
    """
    device = open_device(settings)
    device.check()
    if device.origin == "looked up":  # a tiny encoder need not be in a table
        return device.environment()["runtime"]
    seen = device.measure([device.export(TextEncoder(TINY).eval())], None, CALL, quick=True)[0]
    doubt = "; noisy: other programs are running" if seen.noisy else ""
    origin = "" if seen.origin == "measured" else f" ({seen.origin})"
    return f"a tiny encoder takes {seen.median_ms:.3f} ms{origin}{doubt}"
