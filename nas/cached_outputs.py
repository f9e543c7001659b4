"""A teacher's answers to token rows: computed once, kept in files, checked when they are found again.

Knows a teacher, token rows and the files; not recipes, not students.
"""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from nas.bundle import Outputs
from nas.data.tokens import Tokens
from nas.files import atomic_array, read_json, sha256_of, write_json
from nas.outputs import BATCH, answers
from nas.teacher import Teacher
from search_spaces.errors import StateError
from search_spaces.families.encoder_model import TextEncoder
from search_spaces.seeding import rng_for

TOLERANCE = 2e-3  # relative, and absolute below 1: float16 keeps 5e-4, another order of batches changes 1e-5
VERIFIED = 0.01  # share of the rows of found files that the live teacher is asked about


def cached_outputs(
    teacher: Teacher,
    tokens: Tokens,
    folder: Path,
    with_states: bool = False,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Outputs:
    """Return the teacher's answers, from files where they were computed before.

    One per cent of the rows of found files is compared with the live teacher.

    Args:
        teacher: Its fingerprint is part of the files' names, as are the tokens.
        tokens: n rows.
        folder: Where the files are kept, each beside its sha256.
        with_states: Also the hidden states of the first token.
        on_rows: Called during the computation with the rows done and the rows in all.

    Returns:
        Memory-mapped arrays, read-only, rows as in ``tokens``.

    Raises:
        StateError: A found file is damaged, or the teacher does not say what it holds.
    """
    key = _key(teacher, tokens)
    paths = [folder / f"{key}.{part}.npy" for part in ("logits", *(["states"] if with_states else []))]
    if all(_seal(path).exists() for path in paths):
        for path in paths:
            _check_seal(path)
        _check_sample(teacher.model, tokens, paths)
    else:
        _compute(teacher.model, tokens, paths, on_rows)
    return Outputs(*(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths))


def share_outputs(source: Path, target: Path) -> None:
    """Copy the finished files of one folder into another, where a search of the same teacher finds them.

    Files that are there already stay. What a search finds it checks, as after an interruption of its own; teacher and
    rows are part of the names, so files of others are never read.

    Args:
        source: A folder of `cached_outputs`; it may hold none.
        target: Another one.
    """
    for path in source.glob("*.npy"):
        copy = target / path.name
        if _seal(path).exists() and not _seal(copy).exists():
            shutil.copy2(path, copy)
            write_json(_seal(copy), read_json(_seal(path)))  # comes last: without it the copy counts as unfinished


def _compute(model: TextEncoder, tokens: Tokens, paths: list[Path], on_rows: Callable[[int, int], None]) -> None:
    """Write the answers in one pass, then their seals."""
    shapes = [(len(model.config.labels),), (model.config.depth, model.config.hidden)]
    done = 0
    with ExitStack() as stack:
        files = [
            stack.enter_context(atomic_array(path, (len(tokens), *shape), np.float16))
            for path, shape in zip(paths, shapes, strict=False)
        ]
        for rows, found in answers(model, tokens, BATCH, with_states=len(files) > 1):
            for file, values in zip(files, found, strict=True):
                file[rows] = values
            done += len(rows)
            on_rows(done, len(tokens))
    for path in paths:
        write_json(_seal(path), {"sha256": sha256_of(path), "bytes": path.stat().st_size, "rows": len(tokens)})


def _key(teacher: Teacher, tokens: Tokens) -> str:
    """Return the name of what a teacher says of token rows."""
    digest = hashlib.sha256(f"{teacher.fingerprint} float16".encode())
    for part in (tokens.ids, tokens.types, tokens.offsets):
        digest.update(f"{part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]


def _seal(path: Path) -> Path:
    """Return where the sha256 of a file is kept."""
    return path.with_suffix(".json")


def _check_seal(path: Path) -> None:
    """Compare a file with the sha256 written beside it."""
    seal = _seal(path)
    if not path.is_file() or sha256_of(path) != read_json(seal).get("sha256"):
        raise StateError(
            f"teacher outputs {path}: missing or damaged, sha256 is not that in {seal.name}. "
            f"Delete {seal.name} to have them computed again."
        )


def _check_sample(model: TextEncoder, tokens: Tokens, paths: list[Path]) -> None:
    """Compare some rows of the files with what the teacher says now."""
    rows = rng_for(0, "verify", paths[0].stem).permutation(len(tokens))[: max(1, round(VERIFIED * len(tokens)))]
    live = list(answers(model, tokens.subset(rows), BATCH, with_states=len(paths) > 1))
    order = rows[np.concatenate([part for part, _ in live])]
    for i, path in enumerate(paths):
        said = np.concatenate([values[i] for _, values in live])
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        fits = found.shape == (len(tokens), *said.shape[1:])
        n_off = int(np.sum(~np.isclose(found[order], said, TOLERANCE, TOLERANCE))) if fits else said.size
        if n_off:
            raise StateError(
                f"teacher outputs {path}: {n_off} of {said.size} checked values differ from the live teacher's. "
                f"Delete {_seal(path).name} to have them computed again."
            )
