"""Export: a student's folder, checked, with a model card, ready to ship."""

import os
import shutil
from pathlib import Path
from typing import Any

from launch.loading import loading
from nas.engine import open_record
from nas.files import MANIFEST, atomic_write, write_manifest
from nas.goals import seen_on
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import manifest
from search_spaces.errors import ConfigError
from search_spaces.registry import unknown_name


def export_student(
    folder: RunFolder, recipe: Recipe, name: str, output: Path | None, device: str | None = None
) -> Path:
    """Copy a student of a run to a folder and write its model card.

    Args:
        folder: A finished run.
        recipe: The run's recipe.
        name: A student's name, or ``best``.
        output: Target, must not exist unless it is an earlier export; default ``./<student's name>``.
        device: Whose best student, and whose figures on the card; None: those of the first device.

    Returns:
        The target folder.

    Raises:
        ConfigError: No such student or device, an unfinished run, or a target that is something else.
        StateError: The student's files do not match its manifest.
    """
    target_of = {settings.name: target for target, settings in recipe.targets.items()}
    if device is not None and device not in target_of:
        raise unknown_name("device", device, list(target_of))
    where = next(iter(recipe.targets)) if device is None else target_of[device]
    names, best = _students(folder, recipe)
    chosen = best.get(where, names[0]) if name == "best" else name
    if chosen not in names:
        raise unknown_name("student", name, ["best", *names])
    source = folder.students / chosen
    facts = manifest(source)
    target = output or Path(chosen)
    if any(target.resolve().is_relative_to(own) for own in (folder.students, folder.teacher)):
        raise ConfigError(f"export {target}: lies among the run's own files; choose another --output.")
    if target.exists() and not (target / MANIFEST).exists():
        raise ConfigError(f"export {target}: exists and is no exported student; choose another --output.")
    _replace(target, source, facts, model_card(_facts_on(where, facts), recipe.on([recipe.targets[where]])))
    return target


def _replace(target: Path, source: Path, facts: dict[str, Any], card: str) -> None:
    """Make the target anew from a draft beside it, so that an interrupted export leaves no half a student."""
    draft = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    try:
        shutil.copytree(source, draft)
        atomic_write(draft / "README.md", card.encode())
        write_manifest(draft, {name: fact for name, fact in facts.items() if name != "files"})
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except OSError as error:
        raise ConfigError(f"export {target}: cannot be written ({error.strerror}); choose another --output.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _facts_on(device: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of one of several devices."""
    teacher = seen_on(device, facts["teacher_metrics"])
    return {**facts, **facts.get("devices", {}).get(device, {}), "teacher_metrics": teacher}


def _students(folder: RunFolder, recipe: Recipe) -> tuple[list[str], dict[str, str]]:
    """Return the names of a run's students, best first, and that of the best one of each device."""
    if not folder.study.exists():
        raise ConfigError(f"run folder {folder.path}: has no students yet; finish it with: nas resume {folder.path}")
    attrs = open_record(folder, recipe).attrs
    rows = attrs.get("students")
    if not rows:
        raise ConfigError(f"run folder {folder.path}: has no students yet; finish it with: nas resume {folder.path}")
    return [row["name"] for row in rows], attrs.get("best", {})


def model_card(facts: dict[str, Any], recipe: Recipe) -> str:
    """Return the README of a student: what it is, how it was measured, how to load it."""
    metrics, measured, teacher = facts["metrics"], facts["measurement"], facts["teacher_metrics"]
    origin, file = measured.get("origin", "measured"), facts.get("artefact", "model.onnx")
    tests = f" (test {metrics['test_accuracy']:.4f})" if "test_accuracy" in metrics else ""
    teacher_tests = f" (test {teacher['test_accuracy']:.4f})" if "test_accuracy" in teacher else ""
    artefact, weights = loading("this-folder", facts, recipe)
    return f"""---
library_name: {"transformers" if facts["uniform"] else "prentice"}
pipeline_tag: text-classification
tags: [neural-architecture-search, distillation, {Path(file).suffix[1:]}]
---
# {facts["name"]}

A student of `{facts["teacher"]}`: {facts["shape"]}.

| | student | teacher |
|---|---:|---:|
| validation accuracy | {metrics["accuracy"]:.4f}{tests} | {teacher["accuracy"]:.4f}{teacher_tests} |
| latency, median | {measured["median_ms"]:.3f} ms (95 % CI {measured["low_ms"]:.3f}-{measured["high_ms"]:.3f}) \
| {measured["reference_ms"]:.3f} ms |
| size of {file} | {metrics["size_bytes"] / 1e6:.1f} MB | {teacher["size_bytes"] / 1e6:.1f} MB |

The student's accuracy and latency are those of `{file}`; {origin} on device `{recipe.device.name}`,
{recipe.device.threads} thread(s), batch {recipe.device.batch}, {measured["speedup"]:.1f}x faster than the teacher's
fp32 artefact in the same interleaved run.

## Use

```python
{artefact}
```

The full-precision weights, in torch:

```python
{weights}
```
"""
