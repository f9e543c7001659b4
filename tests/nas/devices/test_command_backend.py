"""A local process as the board: the real runner in a clean environment, and boards that drop, hang and lie."""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.devices import command_backend
from nas.devices.base import Workload
from nas.devices.board_runner import runner_archive
from nas.devices.command_backend import Command
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, DeviceError, UnansweredError
from tests.nas.devices.test_onnx_text_encoder import BERT, build_onnx, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows

CALL = Workload(1, 8)
ARGUMENTS = ["--spec", "{spec}", "--model", "{model}", "--reference", "{reference}", "--out", "{out}"]
CLEAN = """
import runpy, sys
sys.path.append({packages!r})
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    foreign = set(sys.modules) & {{"torch", "pydantic", "psutil", "onnx", "yaml", "safetensors"}}
    assert not foreign, foreign
"""
FAKE = """
import json, pathlib, sys, time
out, count = sys.argv[1], pathlib.Path(__file__).with_suffix(".count")
n = int(count.read_text()) if count.exists() else 0
count.write_text(str(n + 1))
def answer(median=1.0, **changes):
    calls = [median] * 30
    print(json.dumps({{"medians_ms": calls, "reference_ms": [2 * median] * 30, "calls_ms": calls, **changes}}))
time.sleep(0.2)
{body}
"""


@pytest.fixture(scope="module")
def artefact() -> bytes:
    return build_onnx(encoder(BERT))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_backend, "PAUSE_S", 0.0)


@pytest.fixture
def clean(tmp_path: Path) -> list[str]:
    """A Python that knows numpy and onnxruntime, and nothing else."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("numpy", "onnxruntime"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        home = Path(next(iter(spec.submodule_search_locations)))
        for part in (home, home.with_name(f"{name}.libs")):
            if part.exists():
                (packages / part.name).symlink_to(part)
    (tmp_path / "clean.py").write_text(CLEAN.format(packages=str(packages)))
    return [sys.executable, "-I", "-S", str(tmp_path / "clean.py"), "{runner}"]


def board(run: list[str], **options: Any) -> Command:
    settings = DeviceSettings(name="pi5", backend="command", options={"run": run, **options}, note="fan on")
    return Command(settings)


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Command]:
    def make(body: str, **options: Any) -> Command:
        (tmp_path / "fake.py").write_text(FAKE.format(body=body))
        return board([sys.executable, str(tmp_path / "fake.py"), "-", "{model}", "{spec}", "{reference}"], **options)

    return make


def asked(folder: Path) -> int:
    return int((folder / "fake.count").read_text())


def test_the_runner_measures_where_only_numpy_and_onnxruntime_are(clean: list[str], artefact: bytes) -> None:
    device = board([*clean, *ARGUMENTS])
    device.check()
    (seen,) = device.measure([artefact], artefact, Workload(1, 8, ((8, 0.5), (16, 0.5))), quick=True)
    assert seen.low_ms <= seen.median_ms <= seen.high_ms
    assert 0.4 < (seen.speedup or 0) < 2.5
    environment = device.environment()
    assert environment["runtime"].startswith("onnxruntime 1.")
    assert environment["note"] == "fan on"
    memory = device.peak_memory(artefact, CALL)
    assert memory is not None
    assert 0 < memory.idle_bytes < memory.total_bytes < 200e6


def test_files_are_copied_once_and_the_answer_is_fetched(clean: list[str], artefact: bytes, tmp_path: Path) -> None:
    there, log = tmp_path / "board", tmp_path / "copied"
    there.mkdir()
    script = tmp_path / "copy.py"
    script.write_text(
        f"import shutil, sys\nshutil.copy(*sys.argv[1:])\nopen({str(log)!r}, 'a').write(sys.argv[2] + '\\n')\n"
    )
    device = board(
        [*clean, *ARGUMENTS],
        copy=[sys.executable, str(script), "{file}", "{target}"],
        fetch=[sys.executable, str(script), "{source}", "{file}"],
        folder=str(there),
    )
    other = build_onnx(encoder(BERT).double().float())
    device.measure([artefact, artefact], other, CALL, quick=True)
    copied = [Path(line).name.split("-")[0] for line in log.read_text().splitlines()]
    assert [copied.count(name) for name in ("model", "reference", "spec", "runner", "answer.json")] == [1, 1, 1, 1, 2]


def test_answers_are_computed_here_as_onnxruntime_would(artefact: bytes) -> None:
    device, tokens = board(["true", "{model}", "{spec}"]), ragged_rows([5, 3])
    assert np.isfinite(device.predict(artefact, tokens, 1)).all()
    assert device.format == "onnxruntime"


def test_a_command_may_be_written_as_one_line() -> None:
    device = board("ssh 'pi 5' python3 {runner} --spec {spec} --model {model}")  # type: ignore[arg-type]
    assert device.options.run == ("ssh", "pi 5", "python3", "{runner}", "--spec", "{spec}", "--model", "{model}")


def test_what_the_boards_runtime_refuses_is_said_and_not_tried_again(clean: list[str]) -> None:
    device = board([*clean, *ARGUMENTS])
    with pytest.raises(DeviceError, match=r"device 'pi5': 7 bytes are refused there: .*INVALID_PROTOBUF") as caught:
        device.measure([b"garbage"], None, CALL, quick=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(3)", "ended with code 3"),
        ("sys.exit('no route to host')", "ended with code 1: no route to host"),
        ("print('kernel panic')", "no JSON but 'kernel panic'"),
        ("print('[1]')", "a list instead of an object"),
        ("print('{}')", "'medians_ms' is no list of numbers"),
        ("answer(-1.0)", "'medians_ms' holds -1"),
        ("answer(0)", "'medians_ms' holds 0"),
        ("answer(float('nan'))", "'medians_ms' holds nan"),
        ("answer(1e9)", "calls of .* ms in all within"),
        ("answer(True)", "'medians_ms' is no list of numbers"),
        ("answer(calls_ms=[5.0] * 30)", "medians of 1 to 1 ms of other calls"),
        ("answer(reference_ms=[1.0])", "30 rounds, 1 of the reference and 30 calls do not belong together"),
        ("answer(load_ms=-3)", "'load_ms' is -3"),
        ("print('x' * (17 << 20))", "at most 16,777,216 are read"),
    ],
)
def test_an_answer_that_cannot_be_true_is_asked_for_again_and_then_refused(
    fake: Callable[..., Command], artefact: bytes, tmp_path: Path, body: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=f"'pi5': no answer in 3 attempts; the last: .*{message}") as caught:
        fake(body).measure([artefact], artefact, CALL, quick=True)
    assert "\n" not in str(caught.value)
    assert asked(tmp_path) == 3


def test_a_board_that_drops_twice_is_measured_the_third_time(fake: Callable[..., Command], artefact: bytes) -> None:
    (seen,) = fake("answer() if n == 2 else sys.exit(1)").measure([artefact], artefact, CALL, quick=True)
    assert (seen.median_ms, seen.speedup) == (1.0, 2.0)


def test_a_spike_does_not_move_the_median(fake: Callable[..., Command], artefact: bytes) -> None:
    device = fake("calls = [1.0] * 29 + [50.0]; answer(medians_ms=calls, calls_ms=calls)")
    assert device.measure([artefact], artefact, CALL, quick=True)[0].median_ms == 1.0


def test_a_board_whose_times_drift_is_called_noisy(fake: Callable[..., Command], artefact: bytes) -> None:
    device = fake("calls = [1.0 + 0.1 * i for i in range(30)]; answer(medians_ms=calls, calls_ms=calls)")
    assert device.measure([artefact], artefact, CALL, quick=True)[0].noisy


def test_a_board_that_hangs_is_ended_with_all_that_it_started(
    fake: Callable[..., Command], artefact: bytes, tmp_path: Path
) -> None:
    child = "import subprocess; c = subprocess.Popen(['sleep', '60']); "
    device = fake(child + f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(c.pid)); c.wait()", timeout_s=1.0)
    start = time.monotonic()
    with pytest.raises(DeviceError, match="took longer than 1 s"):
        device.measure([artefact], None, CALL, quick=True)
    assert time.monotonic() - start < 10
    for _ in range(50):
        if not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child of the command still runs")


def test_a_board_that_gives_no_answer_may_give_one_the_next_time(
    fake: Callable[..., Command], artefact: bytes, tmp_path: Path
) -> None:
    device = fake("answer() if n > 3 else sys.exit(1)", retries=0)
    for _ in range(4):
        with pytest.raises(UnansweredError, match="no answer in 1 attempts"):
            device.measure([artefact], artefact, CALL, quick=True)
    assert device.measure([artefact], artefact, CALL, quick=True)[0].median_ms == 1.0
    assert asked(tmp_path) == 5


def test_commands_see_no_secrets_of_the_environment(
    fake: Callable[..., Command], artefact: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    device = fake("import os; answer(environment={'sees': ' '.join(os.environ)})")
    device.measure([artefact], artefact, CALL, quick=True)
    assert "SOME_TOKEN" not in device.environment()["sees"]
    assert "PATH" in device.environment()["sees"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"device\.options\.run: missing; backend 'command' needs it"),
        ({"run": []}, "at least 1"),
        ({"run": ["ssh", "{modle}", "{spec}"]}, r"run: \{modle\} means nothing; write \{model\}, \{out\}"),
        ({"run": ["ssh", "{model}"]}, r"run: \{spec\} is missing; it holds \{model\}"),
        ({"run": ["a", "{model}", "{spec}"], "copy": ["scp", "{file}"]}, r"copy: \{target\} is missing"),
        ({"run": ["a", "{model}", "{spec}", "{out}"], "copy": ["scp", "{file}", "{target}"]}, "fetch: missing"),
        ({"run": 3}, "run: 3: input should be a valid tuple"),
        ({"run": "ssh 'pi"}, "no closing quotation"),
        ({"run": ["a"], "timeout": 3}, r"'timeout' is unknown; known: run, copy, fetch.*Did you mean 'timeout_s'"),
    ],
)
def test_commands_that_mean_nothing_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Command(DeviceSettings(name="pi5", backend="command", options=options))
    assert "\n" not in str(caught.value)


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(DeviceError, match="device 'pi5': 'no-such-ssh' is not installed here"):
        board(["no-such-ssh", "{model}", "{spec}"]).check()


def test_the_runner_is_the_same_file_every_time() -> None:
    assert runner_archive() == runner_archive()
