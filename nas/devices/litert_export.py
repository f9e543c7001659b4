"""A text encoder as a LiteRT file: one signature for each length of rows; they share the weights.

Runs in the Python that has litert-torch. Knows converters; not interpreters.
"""

from collections.abc import Mapping
from typing import Any, cast

import litert_torch

from compressors.torch_file import from_blob
from nas.devices.portable_encoder import PortableEncoder, example


def export(blob: bytes, options: Mapping[str, Any]) -> bytes:
    """Return the file of a model, float32, with signatures ``tokens_16``, ``tokens_32`` and so on.

    Args:
        blob: What `compressors.torch_file.to_blob` returned.
        options: ``batch``, rows of a call, and ``lengths``; none is above the model's positions.
    """
    model, _ = from_blob("model", blob)
    config = model.config
    portable, converter = PortableEncoder(model), litert_torch.Converter()
    for length in sorted({min(length, config.n_positions) for length in options["lengths"]}):
        inputs = example(config, options["batch"], length)
        converter.add_signature(f"tokens_{length}", portable, sample_kwargs=inputs)
    return cast(bytes, converter.convert().model_content())
