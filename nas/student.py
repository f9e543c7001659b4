"""The folder of one student: what is in it, how it is written, how it is loaded and checked.

A uniform student is a plain Hugging Face folder; a per-layer one holds the same files in our own names. Both carry
the device's file (``model.onnx``, quantized as searched), the tokenizer and a manifest with the sha256 of every file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import load_file

from nas.files import MANIFEST, atomic_write, check_manifest, write_json, write_manifest
from search_spaces.errors import ConfigError
from search_spaces.families.encoder_hf import from_hf, save_hf
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder


def save(
    folder: Path,
    config: EncoderConfig,
    weights: bytes,
    artefacts: Mapping[str, bytes],
    tokenizer: Any,
    facts: Mapping[str, Any],
) -> None:
    """Write a student; the manifest comes last, so a folder without one is unfinished.

    Args:
        folder: Created if missing.
        config: The student's shape.
        weights: safetensors of the state dict, in our names.
        artefacts: The files that were scored, by their names.
        tokenizer: The teacher's, or the one of the student's pruned vocabulary.
        facts: What the manifest says besides: genes, metrics, versions; JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    model = TextEncoder(config)
    model.load_state_dict(load_tensors(weights))
    if config.is_uniform:
        save_hf(model.eval(), folder)
    else:
        atomic_write(folder / "model.safetensors", weights)
        write_json(folder / "config.json", {"model_type": "prentice_text_encoder", **config.to_json()})
    tokenizer.save_pretrained(folder)
    for name, content in artefacts.items():
        atomic_write(folder / name, content)
    write_manifest(folder, {**facts, "config": config.to_json(), "uniform": config.is_uniform})


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a student, after checking every file against it.

    Raises:
        ConfigError: The folder is no student.
        StateError: A file is missing or differs.
    """
    if not (folder / MANIFEST).exists():
        raise ConfigError(f"student {folder}: holds no {MANIFEST}; give a folder written by a search or nas export.")
    return check_manifest(folder)


def load(path: str | Path) -> TextEncoder:
    """Return a student as a torch module in evaluation mode; see `nas.load_student`."""
    folder = Path(path)
    content = manifest(folder)
    if content["uniform"]:
        return from_hf(str(folder), labels=content["config"]["labels"])[0].eval()
    model = TextEncoder(EncoderConfig.from_json(content["config"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
