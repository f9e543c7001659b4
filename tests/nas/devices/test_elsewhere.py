"""A runtime in another Python: here ONNX Runtime in a second process of this one, so that it runs everywhere."""

import ast
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from nas.devices import other_python
from nas.devices.archive import ROOT
from nas.devices.base import Format, Workload
from nas.devices.elsewhere import Elsewhere
from nas.devices.onnx_text_encoder import build_onnx
from nas.devices.onnxruntime_backend import OnnxRuntime
from nas.devices.other_python import MODULES, FarProgram, OtherPython
from nas.devices.program import RefusalError
from nas.devices.runtimes import Runtime
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError, MissingDependencyError
from tests.nas.devices.test_onnx_text_encoder import BERT, encoder
from tests.nas.devices.test_onnxruntime_backend import ragged_rows

CALL = Workload(2, 8)


class Far(Elsewhere):
    """ONNX Runtime, as if it could not be here."""

    suits: ClassVar[str] = "tests"
    runtime: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime"
    where: ClassVar[Runtime] = Runtime("onnxruntime", "ONNX Runtime", "onnxruntime", "onnxruntime", ("onnxruntime",))
    format: Format = "onnxruntime"


def far(**options: object) -> Far:
    return Far(DeviceSettings(name="far", options=options, note="on a desk"))


@pytest.fixture(scope="module")
def artefact() -> bytes:
    return build_onnx(encoder(BERT))


@pytest.fixture
def other() -> Iterator[OtherPython]:
    started = OtherPython(sys.executable, "onnxruntime")
    yield started
    started.close()


def test_it_answers_what_the_runtime_answers_here(artefact: bytes) -> None:
    tokens = ragged_rows([5, 9, 5, 1, 32])
    here = OnnxRuntime(DeviceSettings())
    np.testing.assert_array_equal(far().predict(artefact, tokens, 2), here.predict(artefact, tokens, 2))
    said = [call["logits"] for call in far().outputs(artefact, tokens, 1)]
    expected = [call["logits"] for call in here.outputs(artefact, tokens, 1)]
    np.testing.assert_array_equal(np.concatenate(said), np.concatenate(expected))
    assert far().rows(artefact, CALL) == 2


def test_it_measures_like_the_runtime_here(artefact: bytes) -> None:
    device, large = far(), build_onnx(encoder(BERT))
    (seen,) = device.measure([artefact], large, Workload(1, 9, ((8, 0.5), (16, 0.5))), quick=True)
    assert 0 < seen.low_ms <= seen.median_ms <= seen.high_ms
    assert 0.4 < (seen.speedup or 0) < 2.5
    assert (seen.size_bytes, seen.load_ms > 0) == (len(artefact), True)
    (alone,) = device.measure([artefact], None, CALL, quick=True)
    assert alone.speedup is None
    environment = device.environment()
    assert environment["runtime"] == f"{OnnxRuntime(DeviceSettings()).version().rpartition(' ')[0]} of {sys.executable}"
    assert environment["affinity"] != "not pinned" or not hasattr(os, "sched_setaffinity")


def test_memory_is_that_of_the_other_process(artefact: bytes) -> None:
    held = np.ones(400_000_000 // 8)
    memory = far().peak_memory(artefact, CALL)
    assert memory is not None
    assert 0 < memory.idle_bytes < memory.total_bytes < 300e6 < held.nbytes


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_the_process_stays_where_it_was_started() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        started = OtherPython(sys.executable, "onnxruntime")
        started.ask("peak")
    finally:
        os.sched_setaffinity(0, allowed)
    assert os.sched_getaffinity(started._process.pid) == {max(allowed)}


def test_it_ends_with_who_holds_it(artefact: bytes) -> None:
    program = FarProgram(OtherPython(sys.executable, "onnxruntime"), artefact, 1, {})
    process = program._other._process
    assert process.poll() is None
    del program
    assert process.poll() is not None


def test_garbage_and_bad_inputs_are_refused_in_one_line(artefact: bytes) -> None:
    with pytest.raises(DeviceError, match="device 'far': 7 bytes are no model it can run; ONNX Runtime says") as caught:
        far().measure([b"garbage"], None, CALL)
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError, match="an input of 1x50 tokens failed"):
        far().measure([artefact], None, Workload(1, 50))


def test_a_process_that_is_gone_is_one_line(other: OtherPython, artefact: bytes) -> None:
    program = FarProgram(other, artefact, 1, {})
    os.kill(other._process.pid, signal.SIGKILL)
    with pytest.raises(RefusalError, match="its process ended with SIGKILL after saying: nothing"):
        program.run({})
    with pytest.raises(RefusalError, match="its process ended with SIGKILL"):
        program.run({})


def test_a_process_that_hangs_is_ended(other: OtherPython, monkeypatch: pytest.MonkeyPatch) -> None:
    other.ask("peak")
    monkeypatch.setattr(other_python, "PATIENCE_S", 0.2)
    monkeypatch.setattr(other_python, "FAREWELL_S", 0.1)
    os.kill(other._process.pid, signal.SIGSTOP)
    with pytest.raises(RefusalError, match=r"no answer within 0\.2 s"):
        other.ask("peak")
    assert other._process.returncode == -signal.SIGKILL


def test_what_a_process_said_last_is_told() -> None:
    started = OtherPython(sys.executable, "no such runtime")
    with pytest.raises(RefusalError, match=r"ended with code 1 after saying: .*runtime: 'no such runtime' is unknown"):
        started.ask("peak")


def test_a_python_that_is_not_there_or_has_no_runtime_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        MissingDependencyError, match=r"'far': /nowhere/python is no Python that starts: .*No such file"
    ):
        far(python="/nowhere/python").check()
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(MissingDependencyError, match=r"bare has no onnxruntime. Install it with: .* pip install onnxr"):
        far(python=str(bare)).check()


@pytest.mark.parametrize("name", MODULES)
def test_the_worker_has_all_that_its_modules_import(name: str) -> None:
    for node in ast.parse((ROOT / name).read_text()).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("nas", "search_spaces"):
            path = str(node.module).replace(".", "/")
            assert {f"{path}.py", f"{path}/__init__.py"} & set(MODULES)
