"""Profiles that are kept with a device: found again, believed where they still hold, and lent to other devices."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.candidates import Candidates
from nas.design import BAND, design
from nas.devices.base import Measurement
from nas.executor import Task
from nas.files import read_json, write_json
from nas.kept_profile import keep, kept_path, take_over, unknown_variants
from nas.measured_rows import described
from nas.prepare import Prepared
from nas.profile import fit_profile, measure_space, profile
from nas.progress import Silent
from nas.recipe import DeviceSettings, Recipe
from nas.run_folder import RunFolder
from search_spaces.errors import StateError
from tests.nas.phases import N_TOKENS, Formula, candidates, latency_ms

TEACHER_MS = 5.0
KEPT = "profile: device 'pi5' was profiled 0 minutes ago"


class Heard(Silent):
    """A progress that remembers all it is told."""

    def __init__(self) -> None:
        self.said, self.warnings = list[str](), list[str]()

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)


class Machine(Formula):
    """A device by formula: how much slower students and teacher are than `latency_ms` says, and its runtime."""

    def __init__(self, made: Candidates, student: float = 1.0, teacher: float = 1.0, runtime: str = "1.25") -> None:
        self.made, self.slower, self.teacher, self.runtime = made, student, teacher, runtime
        super().__init__(self._measured)

    def _measured(self, task: Task) -> dict[str, Any]:
        rows = [
            Measurement(
                self.slower * latency_ms(self.made, genes), *(1.0,) * 3, 9, self.teacher * TEACHER_MS,
                1.0, False, False, 1.0, int(4 * self.made.known(genes, N_TOKENS).parameters),
            ).to_json()
            for genes in task.spec["candidates"]
        ]  # fmt: skip
        return {"measurements": rows, "environment": {"runtime": self.runtime}, "reference_bytes": 1000}


def prepared(made: Candidates, n_shapes: int = 16, constraints: Sequence[str] = (), **device: Any) -> Prepared:
    search = {"profile_shapes": n_shapes, "seed": 0, "trial_timeout_s": 10.0}
    settings = {"name": "pi5", "backend": "onnxruntime", **device}
    recipe = Recipe.model_validate({"search": search, "device": settings, "constraints": constraints})
    bundle = SimpleNamespace(recipe=recipe.model_dump(mode="json"))
    found: Any = SimpleNamespace(candidates=made, bundle=bundle, n_tokens=N_TOKENS, device="", takes_turns=False)
    return found


def ageless(lines: list[str]) -> list[str]:
    """Return lines as if they were said within half a minute."""
    return [re.sub(r"profiled \d+ minutes? ago", "profiled 0 minutes ago", line) for line in lines]


def run_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    return folder


@pytest.fixture
def made() -> Candidates:
    return candidates(compress={})


@pytest.fixture
def root(made: Candidates, tmp_path: Path) -> Path:
    """The folder of a device with a profile of this teacher."""
    keep(tmp_path / "devices", prepared(made), measure_space(prepared(made), Machine(made), Silent()))
    return tmp_path / "devices"


def taken_over(made: Candidates, root: Path, path: Path, machine: Machine, **device: Any) -> tuple[RunFolder, Heard]:
    folder, heard = run_folder(path), Heard()
    take_over(prepared(made, **device), folder, machine, heard, root)
    return folder, heard


def test_a_search_measures_three_shapes_and_begins_with_what_was_kept(
    made: Candidates, root: Path, tmp_path: Path
) -> None:
    machine = Machine(made)
    folder, heard = taken_over(made, root, tmp_path / "run", machine)
    assert [task.uid for task in machine.seen] == ["check-0", "check-1", "check-2"]
    assert ageless(heard.said) == [f"{KEPT} (16 measurements) and still holds; anew with search.reuse_profile=false"]
    known = profile(prepared(made), folder, machine, Silent())
    assert len(machine.seen) == 3
    assert known.latency.report.n == 16 + 3
    for genes in design(made, 20, 3):
        assert known.metrics(genes)["latency_ms"] == pytest.approx(latency_ms(made, genes), rel=0.05)


def test_where_a_latency_is_asked_for_five_shapes_near_it_are_measured_and_learned_from(
    made: Candidates, root: Path, tmp_path: Path
) -> None:
    limit_ms = float(np.quantile([latency_ms(made, genes) for genes in design(made, 40, 3)], 0.3))
    machine, asked = Machine(made), [f"latency_ms <= {limit_ms}"]
    folder, heard = taken_over(made, root, tmp_path / "run", machine, constraints=asked)
    assert "still holds" in heard.said[0]
    measured = [task.spec["candidates"][0] for task in machine.seen]
    assert len({made.space.key(genes) for genes in measured}) == 5
    for genes in measured:
        assert 1 / BAND - 0.05 < latency_ms(made, genes) / limit_ms < BAND + 0.05
    assert [row["genes"] for row in read_json(folder.profile)["later"]] == measured
    assert profile(prepared(made, constraints=asked), folder, machine, Silent()).latency.report.n == 16 + 5


def test_another_space_and_other_methods_of_the_same_teacher_use_it_too(root: Path, tmp_path: Path) -> None:
    few = candidates(space={"genes": {"hidden": [16]}}, compress={"int8": {"enabled": True, "per_channel": True}})
    folder, heard = taken_over(few, root, tmp_path / "run", Machine(few))
    assert not heard.said
    assert ageless(heard.warnings) == [f"{KEPT}, but it does not know int8; measuring anew"]
    plain = candidates(space={"genes": {"hidden": [16]}}, compress={})
    folder, heard = taken_over(plain, root, tmp_path / "other", Machine(plain))
    assert "still holds" in heard.said[0]
    assert profile(prepared(plain), folder, Machine(plain), Silent()).latency.report.n == 16 + 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runtime": "1.26"}, "runtime was 1.25 and is 1.26"),
        ({"teacher": 1.2}, "the teacher took 5.35 ms at most and takes 6 ms"),
        ({"student": 1.2}, "it foretells only 0 of 3 students"),
    ],
)
def test_a_profile_that_no_longer_holds_is_measured_anew_and_the_reason_is_said(
    made: Candidates, root: Path, tmp_path: Path, changes: Any, reason: str
) -> None:
    folder, heard = taken_over(made, root, tmp_path / "run", Machine(made, **changes))
    assert not folder.profile.exists()
    assert ageless(heard.warnings) == [f"{KEPT}, but {reason}; measuring anew"]


def test_a_little_more_or_less_is_no_change(made: Candidates, root: Path, tmp_path: Path) -> None:
    folder, _ = taken_over(made, root, tmp_path / "run", Machine(made, student=1.04, teacher=1.04))
    assert folder.profile.exists()


@pytest.mark.parametrize(
    "device", [{"threads": 2}, {"name": "pi4"}, {"mix": {8: 1, 16: 1}}, {"options": {"graph": "none"}}]
)
def test_other_calls_or_another_device_have_another_profile(
    made: Candidates, root: Path, tmp_path: Path, device: Any
) -> None:
    machine = Machine(made)
    folder, heard = taken_over(made, root, tmp_path / "run", machine, **device)
    assert (folder.profile.exists(), machine.seen, heard.said, heard.warnings) == (False, [], [], [])


def test_a_note_and_the_names_of_labels_make_no_other_profile(made: Candidates, root: Path) -> None:
    (there,) = root.glob("pi5.profiles/*.json")
    assert kept_path(root, DeviceSettings(name="pi5", backend="onnxruntime", note="fan on"), N_TOKENS, made) == there
    assert kept_path(root, DeviceSettings(name="pi5", backend="onnxruntime"), N_TOKENS + 1, made) != there


def test_a_run_that_has_a_profile_keeps_it(made: Candidates, root: Path, tmp_path: Path) -> None:
    run_folder(tmp_path / "run").profile.write_text("its own")
    folder, heard = taken_over(made, root, tmp_path / "run", Machine(made))
    assert (folder.profile.read_text(), heard.said) == ("its own", [])


def test_a_damaged_file_is_named(made: Candidates, root: Path, tmp_path: Path) -> None:
    (there,) = root.glob("pi5.profiles/*.json")
    there.write_text("{")
    with pytest.raises(StateError, match=rf"{there.name}: is damaged, .* Delete it to have it made again"):
        taken_over(made, root, tmp_path / "run", Machine(made))


@pytest.mark.parametrize(("hours", "words"), [(1 / 60, "1 minute"), (5, "5 hours"), (70, "3 days")])
def test_its_age_is_said(made: Candidates, root: Path, tmp_path: Path, hours: float, words: str) -> None:
    (there,) = root.glob("pi5.profiles/*.json")
    told = read_json(there)
    made_then = datetime.fromisoformat(told["made"]) - timedelta(hours=hours)
    write_json(there, {**told, "made": made_then.isoformat()})
    assert f"was profiled {words} ago" in taken_over(made, root, tmp_path / "run", Machine(made))[1].said[0]


def test_ten_shapes_and_another_device_are_worth_more_than_ten_shapes(made: Candidates, root: Path) -> None:
    (there,) = root.glob("pi5.profiles/*.json")
    machine: Callable[[], Machine] = lambda: Machine(made, student=3.0)  # noqa: E731
    few, old = prepared(made, 4, name="pi4"), {"pi5": read_json(there)}
    alone = fit_profile(few, measure_space(few, machine(), Silent()))
    stored = measure_space(few, machine(), Silent(), old)
    helped = fit_profile(few, stored)
    unseen = design(made, 40, 5)[10:]
    errors = [
        np.mean([abs(known.metrics(genes)["latency_ms"] / (3 * latency_ms(made, genes)) - 1) for genes in unseen])
        for known in (alone, helped)
    ]
    assert errors[1] < errors[0]
    assert errors[1] < 0.02
    assert "what is known of pi5" in " ".join(helped.latency.models().values())
    kept = read_json(keep(root, few, stored))
    assert fit_profile(few, kept).latency.to_json() == helped.latency.to_json()


def test_variants_that_a_profile_cannot_predict_are_named(made: Candidates) -> None:
    assert unknown_variants(fit_profile(prepared(made), _stored(made))) == ""
    assert unknown_variants(fit_profile(prepared(candidates()), _stored(made))) == (
        "it does not know int8(per_channel=False), int8(per_channel=True)"
    )


def _stored(made: Candidates) -> dict[str, Any]:
    """Return a kept profile of a space."""
    stored = measure_space(prepared(made), Machine(made), Silent())
    return {**stored, "rows": described(made, N_TOKENS, stored["rows"])}
