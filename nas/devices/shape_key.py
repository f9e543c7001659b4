"""What an exported text encoder is, in words that a table of latencies can be keyed by.

Reads ONNX files that this project wrote; of others only the sum and the kind of weights are known.
"""

import hashlib
import json
import math
from collections import Counter

import onnx
from onnx import helper


def shape_key(artefact: bytes, batch: int, tokens: int) -> dict[str, str]:
    """Return what is known of an artefact and a call.

    Args:
        artefact: ONNX file.
        batch: Rows of the call.
        tokens: Length of its rows.

    Returns:
        ``sha256`` of the file, ``weights`` (the number type that most of them have, e.g. ``int8``), ``batch``,
        ``tokens``, and of our own files the fields of the config; ``heads`` and ``ffn`` are one number where all layers
        have the same, else like ``6-3-5``.
    """
    model = onnx.load_model_from_string(artefact)
    kinds: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        kinds[str(helper.tensor_dtype_to_np_dtype(tensor.data_type))] += math.prod(tensor.dims)
    known = {
        "sha256": hashlib.sha256(artefact).hexdigest(),
        "weights": kinds.most_common(1)[0][0] if kinds else "none",
        "batch": str(batch),
        "tokens": str(tokens),
    }
    told = next((json.loads(entry.value) for entry in model.metadata_props if entry.key == "config"), None)
    if told is None:
        return known
    plain = {name: normalised(value) for name, value in told.items() if isinstance(value, int | float | str)}
    layers = {name: _layers(told[name]) for name in ("heads", "ffn")}
    return {**plain, **layers, "depth": str(len(told["ffn"])), **known}


def normalised(value: object) -> str:
    """Return a value of a table as it is compared: numbers without needless zeros."""
    try:
        return f"{float(str(value)):.12g}"
    except ValueError:
        return str(value).strip()


def _layers(values: list[int]) -> str:
    """Return the widths of layers, one number where they are equal."""
    return str(values[0]) if len(set(values)) == 1 else "-".join(map(str, values))
