"""Getting the files of a Hugging Face model, from a folder or the hub, and refusing what could run code.

Reads ``config.json`` and safetensors only; never a pickle, never code that comes with a model.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from search_spaces.errors import ConfigError, StateError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pt2")
_WANTED = ["config.json", "model*.safetensors", "model.safetensors.index.json"]


def model_folder(model: str, revision: str | None = None) -> Path:
    """Return the local folder of a model; a hub id is downloaded to the Hugging Face cache.

    Args:
        model: Local folder, or hub id such as ``distilbert/distilbert-base-uncased``.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ConfigError: There is no such folder and no such hub id, or the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith(("/", ".", "~")) or folder.exists():
        raise ConfigError(f"teacher.model: {model} is no folder; give a model folder or a Hugging Face hub id.")
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"teacher.model: {model!r} is no local folder and the hub did not give it ({reason}); "
            "check the id, the network and HF_HUB_OFFLINE, or give a local folder."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json``.

    Raises:
        ConfigError: It is missing, not JSON, or asks for code that comes with the model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"teacher.model: {folder} holds no config.json; give a folder written by save_pretrained.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"teacher.model: {path} is not JSON ({error}); download or export the model again."
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"teacher.model: {path} holds a {type(config).__name__}; a JSON object is expected.")
    if "auto_map" in config:
        raise ConfigError(
            f"teacher.model: {path} has auto_map {config['auto_map']!r}, code that comes with the model; "
            "such code is never run. Use a model of a type that transformers itself knows."
        )
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of ``model.safetensors`` or its shards, floating ones as float32.

    Raises:
        ConfigError: There are no weights, or only pickled ones.
        StateError: A file is damaged.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise _no_weights(folder)
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise StateError(f"teacher.model: {file} is damaged ({error}); download or export it again.") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def weight_names(folder: Path) -> set[str]:
    """Return the names of all tensors, read from the headers of the safetensors files; empty without such files.

    Raises:
        StateError: A file is damaged.
    """
    names: set[str] = set()
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                names |= set(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise StateError(f"teacher.model: {file} is damaged ({error}); download or export it again.") from error
    return names


def _no_weights(folder: Path) -> ConfigError:
    """Return the error for a folder without safetensors; pickles are named, with the way to convert them."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return ConfigError(
            f"teacher.model: {folder} holds no weights; model.safetensors is expected. "
            "Give a folder written by save_pretrained, or a hub id with safetensors."
        )
    return ConfigError(
        f"teacher.model: {folder} holds only pickled weights ({', '.join(pickles)}), which can run code and are never "
        'loaded; only safetensors are. If you trust them, convert them once: python -c "from transformers import '
        f"AutoModelForSequenceClassification as M; M.from_pretrained('{folder}').save_pretrained('{folder}-safe')\""
    )
