"""`nas compress`: a teacher, some methods in order, and what they give: a folder to ship and a report."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import save as to_bytes

from compressors.steps import Step, check_order, check_standalone
from launch.compress_table import tables
from launch.export import model_card
from launch.lab_recipe import lab_recipe
from launch.process import quiet_libraries, short, stoppable
from launch.terminal import make_progress
from launch.yaml_files import read_values
from nas.checkpoint import weights_of
from nas.devices.base import FILES
from nas.devices.settings import check_fits
from nas.files import MANIFEST, atomic_write, write_json
from nas.lab import IDENTITY, Lab, compress_model, open_lab
from nas.measures import Measures, measure
from nas.progress import Progress
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import save
from search_spaces.errors import ConfigError, NasError

REPORT = "report.json"


def compress(
    source: str | None,
    settings: tuple[Mapping[str, Any], Sequence[str]],
    wanted: tuple[Sequence[str], Path | None],
    output: Path | None,
    as_json: bool,
) -> int:
    """Compress a teacher and print what it gives; return the exit code.

    Args:
        source: Recipe file or embedded recipe; None: see `lab_recipe`.
        settings: Keys of the recipe from options, and ``key=value`` strings.
        wanted: Steps as text, and a file with steps, which come first.
        output: Folder of the student.
        as_json: Print the report as JSON and nothing else.

    Raises:
        ConfigError: Bad steps, recipe, data, teacher or target; all but what a step finds before anything slow.
    """
    steps = [*_from_file(wanted[1]), *map(Step.parse, wanted[0])]
    check_order(steps)
    check_standalone(steps)
    recipe = lab_recipe(source, *settings)
    check_fits(recipe.device, {step.name: step.knobs for step in steps})
    folder = _folder(recipe)
    target = output or folder.students / _name(steps)
    _check_target(target)
    is_new = not folder.path.exists()
    folder.create()
    folder.lock()
    progress = make_progress(folder.log, Console(stderr=True, highlight=False) if as_json else None)
    with quiet_libraries(), stoppable():
        try:
            measures = _work(recipe, folder, progress, steps, target)
        except NasError:
            if is_new and {path.name for path in folder.teacher.iterdir()} <= {IDENTITY}:  # nothing to go on from
                shutil.rmtree(folder.path)
            raise
        except KeyboardInterrupt:
            progress.warn(f"stopped; what was finished is in {short(folder.path)}, the same command goes on from there")
            return 130
        finally:
            progress.close()
            folder.unlock()
    console = Console()
    if as_json:
        console.print_json(json.dumps(measures.to_json(), allow_nan=False))
        return 0
    for table in tables(measures, recipe):
        console.print(table)
    console.print(f"student: {short(target)}", soft_wrap=True, markup=False)
    return 0


def _work(recipe: Recipe, folder: RunFolder, progress: Progress, steps: Sequence[Step], target: Path) -> Measures:
    """Make, measure and write the student."""
    lab = open_lab(recipe, folder, progress)
    compressed = compress_model(lab, steps, recipe.search.seed)
    measures = measure(lab, compressed)
    _deliver(lab, measures, target)
    return measures


def _folder(recipe: Recipe) -> RunFolder:
    """Return the run folder of a teacher on its data: always the same one, so that work is reused."""
    told = {name: getattr(recipe, name).model_dump(mode="json") for name in ("teacher", "data")}
    told["seed"] = recipe.search.seed
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return RunFolder(Path("runs") / f"compress-{digest}")


def _check_target(target: Path) -> None:
    """Refuse a folder that is no student, or one that cannot be written, before anything slow."""
    if target.exists() and not (target / MANIFEST).exists():
        raise ConfigError(f"compress {target}: exists and is no student; choose another --output.")
    parent = next(path for path in target.absolute().parents if path.exists())
    probe = parent / f".{target.name}.{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _unwritable(target, error) from None


def _unwritable(target: Path, error: OSError) -> ConfigError:
    """Return what to say of a folder that cannot be written."""
    return ConfigError(f"compress {target}: cannot be written ({error.strerror}); choose another --output.")


def _name(steps: Sequence[Step]) -> str:
    """Return the name of a student: its methods in short, and a digest of their knobs."""
    words = "-".join(step.name.replace("_", "-") for step in steps)[:40].rstrip("-")
    return f"{words}-{hashlib.sha256(' '.join(map(str, steps)).encode()).hexdigest()[:6]}"


def _from_file(path: Path | None) -> list[Step]:
    """Return the steps of a YAML or JSON file: a list, or a mapping with the list under ``steps``."""
    if path is None:
        return []
    values = read_values(path)
    listed = values.get("steps") if isinstance(values, dict) else values
    if not isinstance(listed, list):
        raise ConfigError(f"steps {path}: holds a {type(listed).__name__}; a list of steps is expected.")
    return [Step.from_json(value) for value in listed]


def _deliver(lab: Lab, measures: Measures, target: Path) -> None:
    """Write the student's folder from a draft beside it, so that there is a whole student or none."""
    made, facts = measures.compressed, _facts(lab, measures, target.name)
    draft = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        write_json(draft / REPORT, measures.to_json())
        atomic_write(draft / "README.md", model_card(facts, lab.recipe).encode())
        weights = to_bytes(weights_of(made.model))
        save(draft, made.model.config, weights, made.artefact, made.tokenizer, facts, FILES[lab.device.format])
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _facts(lab: Lab, measures: Measures, name: str) -> dict[str, Any]:
    """Return what the manifest says besides: the keys that a search's students have, and the steps."""
    student, teacher = measures.student, measures.teacher
    tests = {} if student.test_accuracy is None else {"test_accuracy": student.test_accuracy}
    told = {} if teacher.test_accuracy is None else {"test_accuracy": teacher.test_accuracy}
    config = measures.compressed.model.config
    return {
        "name": name,
        "artefact": FILES[lab.device.format],
        "steps": [step.to_json() for step in measures.compressed.steps],
        "shape": " then ".join(map(str, measures.compressed.steps)),
        "metrics": {
            "accuracy": student.accuracy,
            "latency_ms": student.latency_ms,
            "size_bytes": float(student.size_bytes),
            "parameters": float(student.parameters),
            "macs": float(student.macs),
            **tests,
        },
        "measurement": measures.final.to_json(),
        "teacher": lab.recipe.teacher.model,
        "teacher_metrics": {
            "accuracy": teacher.accuracy,
            "latency_ms": teacher.latency_ms,
            "size_bytes": float(teacher.size_bytes),
            **told,
        },
        "text_columns": len(lab.recipe.data.text),
        "max_length": lab.recipe.data.max_length,
        "uniform": config.is_uniform,
    }
