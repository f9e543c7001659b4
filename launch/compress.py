"""`nas compress`: a teacher, some methods in order, and what they give: a folder to ship and a report."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import save as to_bytes

from compressors.steps import Step
from launch.compress_table import tables
from launch.delivery import REPORT, check_target, drafted, student_name
from launch.export import model_card
from launch.lab_recipe import lab_recipe
from launch.occupied import occupied
from launch.process import quiet_libraries, short, stoppable
from launch.step_list import wanted_steps
from launch.terminal import make_progress, show_result
from nas.checkpoint import weights_of
from nas.devices.base import FILES
from nas.devices.settings import check_fits
from nas.files import atomic_write, write_json
from nas.lab import Lab, compress_model, open_lab
from nas.measures import Measures, measure
from nas.progress import Progress
from nas.recipe import Recipe
from nas.run_folder import RunFolder
from nas.student import save


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
    steps = wanted_steps(*wanted)
    recipe = lab_recipe(source, *settings)
    check_fits(recipe.device, {step.name: step.knobs for step in steps})
    folder = lab_folder(recipe)
    target = output or folder.students / student_name(steps)
    check_target("compress", target)
    with occupied(folder), quiet_libraries(), stoppable():
        progress = make_progress(folder.log, Console(stderr=True, highlight=False) if as_json else None)
        try:
            measures = _work(recipe, folder, progress, steps, target)
        except KeyboardInterrupt:
            progress.warn(f"stopped; what was finished is in {short(folder.path)}, the same command goes on from there")
            return 130
        finally:
            progress.close()
    return show_result(measures.to_json(), tables(measures, recipe), target, as_json)


def _work(recipe: Recipe, folder: RunFolder, progress: Progress, steps: Sequence[Step], target: Path) -> Measures:
    """Make, measure and write the student."""
    lab = open_lab(recipe, folder, progress)
    compressed = compress_model(lab, steps, recipe.search.seed)
    measures = measure(lab, compressed)
    _deliver(lab, measures, target)
    return measures


def lab_folder(recipe: Recipe) -> RunFolder:
    """Return the run folder of a teacher on its data: always the same one, so that work is reused."""
    told = {name: getattr(recipe, name).model_dump(mode="json") for name in ("teacher", "data")}
    told["seed"] = recipe.search.seed
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return RunFolder(Path("runs") / f"compress-{digest}")


def _deliver(lab: Lab, measures: Measures, target: Path) -> None:
    """Write the student's folder."""
    made, facts = measures.compressed, _facts(lab, measures, target.name)
    with drafted("compress", target) as draft:
        write_json(draft / REPORT, measures.to_json())
        atomic_write(draft / "README.md", model_card(facts, lab.recipe).encode())
        weights = to_bytes(weights_of(made.model))
        save(draft, made.model.config, weights, {facts["artefact"]: made.artefact}, made.tokenizer, facts)


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
