"""A text encoder as an ExecuTorch file: XNNPACK computes what it can, ExecuTorch's own kernels the rest.

Runs in the Python that has ExecuTorch. Knows converters; not sessions.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower

from compressors.torch_file import from_blob
from nas.devices.portable_encoder import PortableEncoder, example

TRACED = 8  # tokens


def export(blob: bytes, options: Mapping[str, Any]) -> bytes:
    """Return the file of a model, float32; its rows are fixed, its tokens free up to the model's positions.

    The method ``get_vocab_size`` says how many ids there are, ``get_n_labels`` how many logits.

    Args:
        blob: What `compressors.torch_file.to_blob` returned.
        options: ``batch``, rows of a call.
    """
    model, _ = from_blob("model", blob)
    config = model.config
    inputs = example(config, options["batch"], min(TRACED, config.n_positions))
    tokens = torch.export.Dim("tokens", min=1, max=config.n_positions)
    shapes = {name: {1: tokens} for name in inputs}
    with torch.inference_mode():
        traced = torch.export.export(PortableEncoder(model), (), inputs, dynamic_shapes=shapes, strict=False)
        constants = {"get_vocab_size": config.vocab_size, "get_n_labels": len(config.labels)}
        lowered = to_edge_transform_and_lower(
            traced, partitioner=[XnnpackPartitioner()], constant_methods=constants
        ).to_executorch()
    return cast(bytes, lowered.buffer)
