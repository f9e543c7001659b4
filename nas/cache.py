"""Intermediate results of compression in files named after what made them, so that equal work is done once.

One folder a result: ``model.safetensors`` (its header holds the shape), ``state.json`` (reports, seconds, vocabulary)
and a manifest, which comes last. Knows models and files; not steps, not what a key stands for.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressors.base import Report, Sample
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.files import MANIFEST, atomic_write, check_manifest, read_json, write_json, write_manifest
from nas.spelling import Spelling, with_content
from nas.stages import Corpus, State
from search_spaces.errors import StateError
from search_spaces.families.encoder_model import TextEncoder


class Cache:
    """States in a folder, by key."""

    def __init__(self, folder: Path, corpus: Corpus, warn: Callable[[str], None]) -> None:
        """Name the folder, which is made when something is kept; ``warn`` hears of damaged entries."""
        self.folder, self.corpus, self._warn = folder, corpus, warn

    def load(self, key: str) -> State | None:
        """Return what is kept under a key; None where nothing is, or what is there is damaged, which is said."""
        entry = self.folder / key
        if not (entry / MANIFEST).exists():  # never written, or not to its end
            return None
        try:
            check_manifest(entry)
        except StateError as error:
            self._warn(f"cache: {error} It is made again.")
            shutil.rmtree(entry)
            return None
        told = read_json(entry / "state.json")
        model, _ = load_checkpoint((entry / "model.safetensors").read_bytes())
        reports = tuple(Report.from_json(report) for report in told["reports"])
        return State(model, reports, told["seconds"], self._spelling(told["spelling"]))

    def _spelling(self, told: Mapping[str, Any] | None) -> Spelling | None:
        """Return a written spelling."""
        if told is None:
            return None
        before = self.corpus.tokenizer
        after = with_content(before, told["tokenizer"])
        return Spelling(np.array(told["kept"], np.int64), before, after, self.corpus.max_length)

    def save(self, key: str, state: State, probe: Sample) -> None:
        """Keep a state, unless its shape and weights alone do not make the model: then nothing is kept, and that said.

        Args:
            key: Its name.
            state: What to keep.
            probe: A batch on which the written model must say what the model says.
        """
        content = save_checkpoint(state.model)
        if not _is_same(load_checkpoint(content)[0], state.model, probe):
            self._warn("cache: a model that computes more than its weights say is not kept.")
            return
        entry = self.folder / key
        entry.mkdir(parents=True, exist_ok=True)
        atomic_write(entry / "model.safetensors", content)
        told = {
            "reports": [report.to_json() for report in state.reports],
            "seconds": dict(state.seconds),
            "spelling": _told(state.spelling),
        }
        write_json(entry / "state.json", told)
        write_manifest(entry)


def _is_same(one: TextEncoder, other: TextEncoder, probe: Sample) -> bool:
    """Return whether two models say the same of a batch, but for the last digits of sums."""
    with torch.inference_mode():
        return bool(torch.allclose(one(*probe[0]), other(*probe[0]), rtol=1e-4, atol=1e-5))


def _told(spelling: Spelling | None) -> dict[str, Any] | None:
    """Return a spelling as JSON values."""
    if spelling is None:
        return None
    return {"kept": spelling.kept.tolist(), "tokenizer": spelling.after.backend_tokenizer.to_str()}
