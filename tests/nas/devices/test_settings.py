"""Devices as settings: what is refused, and that it is refused before anything starts."""

from typing import Any

import pytest
from pydantic import ValidationError

from nas.devices.base import file_names
from nas.devices.settings import check_device, check_fits, open_device, resolved, workload_of
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError


def device(**values: Any) -> DeviceSettings:
    return DeviceSettings(backend="onnxruntime", **values)


def test_a_built_in_name_stands_for_its_backend_and_other_settings_stay() -> None:
    found = resolved(DeviceSettings(threads=2))
    assert (found.name, found.backend, found.threads) == ("cpu", "onnxruntime", 2)
    assert "backend" in found.model_fields_set


def test_a_free_name_needs_a_backend() -> None:
    assert resolved(device(name="pi5")).name == "pi5"
    with pytest.raises(
        ConfigError, match=r"device: 'pi5' is unknown; known: cpu, torch, openvino.* nas devices add pi5 --backend NAME"
    ):
        resolved(DeviceSettings(name="pi5"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": {"graf": "all"}}, r"device\.options\.graf: 'graf' is unknown; known: providers, graph\. Did you"),
        ({"options": {"graph": "some"}}, r"device\.options\.graph: 'some': input should be 'none', 'basic'"),
        ({"options": {"providers": ["cuda"]}}, r"providers: 'cuda' is not in this ONNX Runtime, which has .*cpu"),
        ({"options": {"providers": ["gpu"]}}, r"device\.options\.providers\.0: 'gpu': input should be 'cpu', 'cuda'"),
        ({"threads": 4096}, r"device\.threads: 4096 is more than the \d+ processors"),
        ({"affinity": [9999]}, r"device\.affinity: processor 9999 is not one that this process may use; choose among"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_device(device(**values), is_here=True)
    assert "\n" not in str(caught.value)


def test_another_machine_may_have_what_this_one_has_not() -> None:
    check_device(device(options={"providers": ["cuda"]}, threads=4096), is_here=False)
    check_device(DeviceSettings(backend="torch", options={"device": "cuda:7"}), is_here=False)


def test_providers_that_know_standard_operators_only_get_files_of_those() -> None:
    formats = {name: open_device(device(options={"providers": [name]})).format for name in ("cpu", "cuda", "tensorrt")}
    assert formats == {"cpu": "onnxruntime", "cuda": "onnxruntime", "tensorrt": "onnx"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mix": {16: 1.0}, "tokens": 16}, "tokens 16 and a mix of 1 lengths; give one"),
        ({"mix": {1: 1.0}}, "lengths are at least 2"),
        ({"mix": {16: 0.0}}, "weights above 0"),
        ({"mix": {}}, "at least 1"),
        ({"affinity": [0], "threads": 2}, "affinity 0: 2 threads need as many processors"),
        ({"affinity": [-1]}, "counted from 0"),
        ({"name": "../pi"}, "pattern"),
        ({"note": "x" * 300}, "at most 200"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        device(**values)


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"device backend: 'onnx_runtime' is unknown.*Did you mean 'onnxruntime'"):
        open_device(DeviceSettings(backend="onnx_runtime"))


def test_a_mix_is_a_workload_of_shares() -> None:
    work = workload_of(device(mix={64: 1, 16: 3}, batch=2), 28)
    assert (work.batch, work.tokens, work.lengths) == (2, 28, ((16, 0.75), (64, 0.25)))
    assert workload_of(device(), 28).lengths == ((28, 1.0),)


def test_a_compressor_that_rewrites_other_files_is_refused_unless_it_is_switched_off() -> None:
    settings = device(options={"providers": ["cpu"]})
    check_fits(settings, {"int8": {}, "distillation": {}})
    with pytest.raises(
        ConfigError, match=r"compress\.weights_4bit: .* device 'ov' runs onnx files; leave weights_4bit"
    ):
        check_fits(DeviceSettings(name="ov", backend="openvino"), {"weights_4bit": {}})
    check_fits(DeviceSettings(name="ov", backend="openvino"), {"weights_4bit": {"enabled": False}})


def test_files_of_one_student_have_names_of_their_own() -> None:
    assert file_names(["torch", "onnx", "torch"]) == {"torch": "artefact.safetensors", "onnx": "model.onnx"}
    both = file_names(["onnxruntime", "onnx"])
    assert both == {"onnxruntime": "model.onnx", "onnx": "model-onnx.onnx"}
