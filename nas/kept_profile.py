"""Profiles that outlive a run: kept with a device, and found again by every search for students of a like teacher.

A file holds what was measured, not what was fitted, so that other spaces and methods can learn from it. Before a search
believes it, a few students are measured, near the latency asked for where one is: a runtime may be newer now, or the
machine another one. Knows files and rows; how students are measured and predicted is `nas.profile`'s business.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.candidates import Candidates
from nas.design import design
from nas.executor import Executor
from nas.files import read_json, write_json
from nas.knowledge import Profile
from nas.measured_rows import described
from nas.prepare import Prepared
from nas.profile import fit_profile, measure_candidates, shapes_near, tasks_of
from nas.progress import Progress
from nas.recipe import DeviceSettings, Recipe
from nas.run_folder import RunFolder
from search_spaces.seeding import rng_for

CHECKED = 3  # shapes measured before a kept profile is believed
CHECKED_NEAR = 5  # instead, where a latency is asked for: near it, where a wrong prediction decides what is trained
NEAR = 0.05  # a prediction that is off by this share is as good as inside of its interval
SAME = ("processor", "instructions", "governor", "threads", "runtime")  # of the environment


def kept_path(root: Path, device: DeviceSettings, n_tokens: int, candidates: Candidates) -> Path:
    """Return where the profile of a device for a shape of teacher is kept, whether it is there or not.

    Args:
        root: Folder of the devices.
        device: Its name and note do not count for what is measured; all other settings do.
        n_tokens: Length of the texts.
        candidates: Their teacher's widths and tables count, not the names of its labels.
    """
    family, teacher = candidates.family, candidates.teacher
    basis = {
        "device": device.model_dump(mode="json", exclude={"name", "note"}),
        "tokens": n_tokens,
        "family": type(family).__name__,
        "teacher": {**teacher.to_json(), "labels": len(teacher.labels)},
        "features": sorted(family.features(teacher, n_tokens)),
    }
    digest = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:12]
    return profiles_folder(root, device.name) / f"{digest}.json"


def profiles_folder(root: Path, name: str) -> Path:
    """Return where the profiles of a device are kept."""
    return root / f"{name}.profiles"


def keep(root: Path, prepared: Prepared, stored: Mapping[str, Any]) -> Path:
    """Write what `measure_space` returned to the device's profile, in the place of an older one; return its path."""
    device = _device(prepared)
    path = kept_path(root, device, prepared.n_tokens, prepared.candidates)
    rows = described(prepared.candidates, prepared.n_tokens, stored["rows"])
    facts = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "device": device.model_dump(mode="json")}
    write_json(path, {**facts, "tokens": prepared.n_tokens, **stored, "rows": rows})
    return path


def take_over(prepared: Prepared, folder: RunFolder, executor: Executor, progress: Progress, root: Path) -> None:
    """Let a run begin with the kept profile of its device where there is one that still holds; say which.

    Args:
        prepared: Of the run.
        folder: Gets the profile, unless it has one.
        executor: Measures a few shapes, which the profile learns from, too.
        progress: Hears the age of the profile, or why it is not used.
        root: Folder of the devices.

    Raises:
        DeviceError: The device cannot be measured.
        StateError: The file of the profile is damaged.
    """
    path = kept_path(root, _device(prepared), prepared.n_tokens, prepared.candidates)
    if folder.profile_on(prepared.device).exists() or not path.exists():
        return
    stored = read_json(path)
    what = f"profile: device {_device(prepared).name!r} was profiled {_age(stored['made'])} ago"
    known = fit_profile(prepared, stored)
    why = unknown_variants(known)
    later: list[dict[str, Any]] = []
    if not why:
        seed = prepared.bundle.recipe["search"]["seed"]
        shapes = shapes_near(prepared, known, CHECKED_NEAR, seed + 1)  # with its own seed the profile has been made
        shapes = shapes or design(prepared.candidates, CHECKED, seed)
        found, facts = measure_candidates(prepared, tasks_of(prepared, "check", 0, shapes), executor, progress)
        later = [row for rows in found.values() for row in rows]
        why = _changed(known, facts["environment"], later)
    if why:
        progress.warn(f"{what}, but {why}; measuring anew")
        return
    write_json(folder.profile_on(prepared.device), {**stored, "later": later})
    progress.say(f"{what} ({len(stored['rows'])} measurements) and still holds; anew with search.reuse_profile=false")


def unknown_variants(known: Profile) -> str:
    """Return which variants of its space a profile cannot predict, in words; empty if it can predict all."""
    candidates = known.candidates
    some = candidates.variants(candidates.space.sample(rng_for(0, "variants")))
    missing = sorted({candidates.variant(genes) for genes in some} - set(known.latency.variants))
    return f"it does not know {', '.join(missing)}" if missing else ""


def _device(prepared: Prepared) -> DeviceSettings:
    """Return the settings of the run's device."""
    return Recipe.model_validate(prepared.bundle.recipe).targets[prepared.device]


def _changed(known: Profile, environment: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in words what is no longer as it was when a profile was measured; empty if nothing is."""
    for name in SAME:
        was, now = (each.get(name, "unknown") for each in (known.environment, environment))
        if was != now:
            return f"{name} was {was} and is {now}"
    slowest_ms = max(float(row["reference_ms"]) for row in rows)
    if slowest_ms > known.calm_ms:
        return f"the teacher took {known.calm_ms:.3g} ms at most and takes {slowest_ms:.3g} ms"
    n_foretold = sum(_is_foretold(known, row) for row in rows)
    return "" if 2 * n_foretold >= len(rows) else f"it foretells only {n_foretold} of {len(rows)} students"


def _is_foretold(known: Profile, row: Mapping[str, Any]) -> bool:
    """Return whether a measured student takes as long as predicted."""
    told, ms = known.foretell(row["genes"]), float(row["median_ms"])
    return told.low <= ms <= told.high or abs(ms / told.value - 1) <= NEAR


def _age(made: str) -> str:
    """Return how long ago a moment was, for people, e.g. ``3 hours``."""
    minutes = (datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds() / 60
    unit, size = ("minute", 1) if minutes < 90 else ("hour", 60) if minutes < 48 * 60 else ("day", 24 * 60)
    n = max(0, round(minutes / size))
    return f"{n} {unit}{'' if n == 1 else 's'}"
