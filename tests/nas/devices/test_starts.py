"""Fresh processes that measure, one after the other."""

import os
from typing import Any

import pytest

from nas.devices import starts
from nas.devices.base import Workload
from nas.devices.settings import open_device, resolved
from nas.devices.starts import measure_fresh, measure_over_starts
from nas.recipe import DeviceSettings
from search_spaces.errors import DeviceError
from tests.nas.devices.test_onnx_text_encoder import BERT, encoder

CALL = Workload(1, 8, ((8, 0.5), (12, 0.5)))


def settings(**told: Any) -> DeviceSettings:
    return resolved(DeviceSettings(**told))


@pytest.mark.parametrize("name", ["cpu", "torch"])
def test_artefacts_are_measured_in_several_processes_and_pooled(name: str) -> None:
    device = settings(name=name, note="on a desk")
    artefact = open_device(device).export(encoder(BERT))
    seen, environment = measure_over_starts(device, [artefact, artefact], artefact, CALL, 2)
    assert [(each.starts, each.size_bytes) for each in seen] == [(2, len(artefact))] * 2
    assert all(0 < each.low_ms < each.median_ms < each.high_ms for each in seen)
    assert environment["note"] == "on a desk"
    if hasattr(os, "sched_getaffinity"):
        assert environment["affinity"] != "not pinned"


def test_a_device_of_formulas_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "measure_fresh", None)
    device = settings(name="chip", backend="roofline")
    artefact = open_device(device).export(encoder(BERT))
    (seen,), environment = measure_over_starts(device, [artefact], artefact, CALL, 3)
    assert (seen.starts, seen.origin, seen.speedup) == (3, "simulated", 1.0)
    assert environment["runtime"].startswith("simulated")


def test_one_start_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "measure_fresh", None)
    artefact = open_device(settings(name="cpu")).export(encoder(BERT))
    assert measure_over_starts(settings(name="cpu"), [artefact], artefact, CALL, 1)[0][0].starts == 1


def test_what_a_process_refuses_is_one_line() -> None:
    with pytest.raises(
        DeviceError, match=r"device 'cpu': 7 bytes are no model it can run; ONNX Runtime says"
    ) as caught:
        measure_fresh(settings(name="cpu"), [b"garbage"], b"garbage", CALL)
    assert "\n" not in str(caught.value)


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "TIMEOUT_S", 0.05)
    with pytest.raises(DeviceError, match=r"device 'cpu': a process that measures took longer than 0\.05 s"):
        measure_fresh(settings(name="cpu"), [b""], b"", CALL)
