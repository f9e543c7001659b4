"""`nas devices profile`: what predicts latencies on a device, measured without a search and kept for many."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launch.commands import make_executor
from launch.device_files import devices_folder, read_device
from launch.lab_recipe import lab_recipe
from launch.listing import print_line, print_table
from launch.process import quiet_libraries, short, stoppable
from launch.ray_address import check_address
from launch.terminal import make_progress
from nas.devices.settings import check_fits
from nas.files import read_json
from nas.kept_profile import keep, kept_path, unknown_variants
from nas.knowledge import Profile
from nas.latency import COVERAGE
from nas.prepare import Prepared, measured_length, prepare_to_measure
from nas.profile import fit_profile, measure_space
from nas.progress import Progress
from nas.recipe import Recipe
from nas.retry import RetryingExecutor
from search_spaces.errors import ConfigError

FEW = 10  # shapes that are enough beside what is known of another device


def profile(source: str | None, overrides: Mapping[str, Any], sets: Sequence[str], other: str | None) -> int:
    """Measure a device and keep what was found; return the exit code.

    Args:
        source: Recipe file or embedded recipe; None: see `lab_recipe`.
        overrides: Dotted key of the recipe to value; ``device.name`` says what is measured.
        sets: ``key=value`` strings.
        other: Device with a profile for this teacher, whose predictions help.

    Raises:
        ConfigError: A bad recipe, or the other device has no profile; nothing was measured.
        DeviceError: The device cannot be measured; what was kept before is kept.
    """
    shapes = overrides["search.profile_shapes"] or (FEW if other else None)
    recipe = lab_recipe(source, {**overrides, "search.profile_shapes": shapes}, sets)
    for methods in (recipe.compress, *recipe.or_compress):
        check_fits(recipe.device, methods)
    check_address(recipe.cluster)
    progress = make_progress()
    with quiet_libraries(), stoppable():
        try:
            prepared = prepare_to_measure(recipe, progress)
            old = {} if other is None else {other: _kept(other, prepared)}
            stored = _measured(recipe, prepared, progress, old)
        except KeyboardInterrupt:
            progress.warn("stopped; nothing was kept")
            return 130
        finally:
            progress.close()
    known, path = fit_profile(prepared, stored), keep(devices_folder(), prepared, stored)
    _report(recipe.device.name, known)
    print_line(f"kept: {short(path)}")
    return 0


def _measured(recipe: Recipe, prepared: Prepared, progress: Progress, old: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured, where a search with this recipe would measure it."""
    executor = RetryingExecutor(make_executor(recipe))
    try:
        executor.start(prepared.bundle)
        return measure_space(prepared, executor, progress, old)
    finally:
        executor.close()


def _kept(name: str, prepared: Prepared) -> Any:
    """Return what is kept of another device for the same teacher and texts."""
    device = read_device(name)
    n_tokens = measured_length(device, prepared.bundle.validation)
    path = kept_path(devices_folder(), device, n_tokens, prepared.candidates)
    if not path.exists():
        raise ConfigError(
            f"--from {name!r}: no profile of it is kept for this teacher and {n_tokens} tokens; make one with: nas "
            f"devices profile {name}"
        )
    told = read_json(path)
    if why := unknown_variants(fit_profile(prepared, told)):
        raise ConfigError(f"--from {name!r}: {why}, which this recipe makes; profile it with this recipe, too.")
    return told


def _report(name: str, known: Profile) -> None:
    """Print how well the device's latencies are predicted, and from what."""
    teacher, report = known.teacher, known.latency.report
    print_line(f"device {name!r}: teacher {teacher['latency_ms']:.3g} ms, fastest student {known.fastest_ms:.3g} ms")
    inside = f"in the {COVERAGE:.0%} interval"
    columns = ("variant", "n", "held-out error", "median", "within 10 %", "Spearman", inside, "model")
    print_table(columns, _rows(known))
    print_line(f"over all: held-out error {report.mape:.1%}, Spearman {report.spearman:.3f}, n = {report.n}")
    print_line(f"left out: {known.left_out or 'nothing'}")


def _rows(known: Profile) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table."""
    models, covered = known.latency.models(), known.latency.covered()
    for variant, seen in known.latency.report.variants.items():
        shares = (f"{seen['mape']:.1%}", f"{seen['median']:.1%}", f"{seen['within_10']:.0%}", f"{seen['spearman']:.3f}")
        yield variant, f"{seen['n']:.0f}", *shares, f"{covered[variant]:.0%}", models[variant]
