"""Energy counters: read where they can be, and nothing made up where they cannot."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nas.devices.energy import energy_mj, gpu_energy_mj, mean_mj
from nas.devices.host import HostDevice
from nas.devices.settings import open_device
from nas.recipe import DeviceSettings


class Package:
    """A counter of the powercap interface, which grows when something is done."""

    def __init__(self, folder: Path, name: str, start: int, largest: int = 10**9) -> None:
        self.folder, self.now, self.largest = folder / name, start, largest
        self.folder.mkdir()
        (self.folder / "max_energy_range_uj").write_text(str(largest))
        self.use(0)

    def use(self, microjoules: int) -> None:
        self.now = (self.now + microjoules) % (self.largest + 1)
        (self.folder / "energy_uj").write_text(f"{self.now}\n")


def test_the_packages_count_once_and_their_parts_do_not(tmp_path: Path) -> None:
    packages = [Package(tmp_path, f"intel-rapl:{i}", 500) for i in range(2)]
    part = Package(tmp_path, "intel-rapl:0:0", 0)
    found = energy_mj(lambda: [each.use(3000) for each in (*packages, part)], tmp_path, least_s=0.01)
    assert found == pytest.approx(6.0)


def test_a_counter_that_begins_again_is_understood(tmp_path: Path) -> None:
    package = Package(tmp_path, "intel-rapl:0", 999_000, largest=1_000_000)
    assert energy_mj(lambda: package.use(2000), tmp_path, least_s=0.0) == pytest.approx(2.0)


def test_without_counters_there_is_no_figure(tmp_path: Path) -> None:
    assert energy_mj(lambda: None, tmp_path, least_s=0.01) is None


def test_counters_that_may_not_be_read_give_no_figure(tmp_path: Path) -> None:
    package = Package(tmp_path, "intel-rapl:0", 0)
    (package.folder / "energy_uj").unlink()
    (package.folder / "energy_uj").mkdir()  # an OSError for everybody, the administrator included
    assert energy_mj(lambda: None, tmp_path, least_s=0.01) is None


FAKE = """
class NVMLError(Exception):
    pass

used, opened = {used!r}, []

def nvmlInit():
    {init}
    opened.append(True)

def nvmlShutdown():
    opened.pop()

def nvmlDeviceGetCount():
    return {count}

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetHandleByUUID(name):
    return name

def nvmlDeviceGetTotalEnergyConsumption(gpu):
    if gpu not in used:
        raise NVMLError("not supported")
    return used[gpu]
"""
Fake = Callable[..., ModuleType]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A management library, for there is no GPU where these tests must run."""
    names = ("pynvml", "nas.devices.nvml")
    kept = {name: sys.modules.pop(name, None) for name in names}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def make(used: dict[int | str, int], count: int = 1, init: str = "") -> ModuleType:
        (tmp_path / "pynvml.py").write_text(FAKE.format(used=used, count=count, init=init or "pass"))
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module("pynvml")

    yield make
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update({name: module for name, module in kept.items() if module is not None})


def spend(nvml: ModuleType, gpu: int | str, mj: int) -> Callable[[], None]:
    return lambda: nvml.used.update({gpu: nvml.used[gpu] + mj})


def test_a_gpu_tells_its_energy_and_is_let_go(fake: Fake) -> None:
    nvml = fake({0: 5000})
    assert gpu_energy_mj(spend(nvml, 0, 30), 0, least_s=0.01) == pytest.approx(30)
    assert nvml.opened == []


def test_a_gpu_that_does_not_count_or_is_none_gives_no_figure(fake: Fake) -> None:
    nvml = fake({})
    assert gpu_energy_mj(lambda: None, 0, least_s=0.0) is None
    assert gpu_energy_mj(lambda: None, 3, least_s=0.0) is None
    assert nvml.opened == []


def test_without_a_driver_there_is_no_figure(fake: Fake) -> None:
    fake({0: 5000}, init="raise NVMLError('no driver')")
    assert gpu_energy_mj(lambda: None, 0, least_s=0.0) is None


def test_of_two_gpus_the_one_is_read_that_cuda_means_or_none(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake({0: 1000, 1: 2000, "GPU-abc": 3000}, count=2)
    assert gpu_energy_mj(spend(nvml, 1, 7), 1, least_s=0.0) is None  # CUDA counts the fastest first
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert gpu_energy_mj(spend(nvml, 1, 7), 1, least_s=0.0) == pytest.approx(7)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-abc")
    assert gpu_energy_mj(spend(nvml, 1, 8), 0, least_s=0.0) == pytest.approx(8)
    assert gpu_energy_mj(spend(nvml, "GPU-abc", 9), 1, least_s=0.0) == pytest.approx(9)
    assert gpu_energy_mj(lambda: None, 2, least_s=0.0) is None


def test_without_the_package_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu_energy_mj(lambda: None, 0, least_s=0.0) is None


def test_devices_say_which_gpu_computes() -> None:
    def gpu(backend: str, **options: object) -> int | None:
        device = open_device(DeviceSettings(backend=backend, options=options))
        assert isinstance(device, HostDevice)
        return device.gpu

    assert [gpu("torch", device=name) for name in ("cpu", "cuda", "cuda:1")] == [None, 0, 1]
    assert [gpu("onnxruntime", providers=[name]) for name in ("cpu", "cuda", "tensorrt")] == [None, 0, 0]
    assert gpu("openvino") is None


def test_a_mean_is_not_known_without_each_of_its_parts() -> None:
    assert mean_mj([(2.0, 0.5), (4.0, 0.5)]) == pytest.approx(3.0)
    assert mean_mj([(2.0, 0.5), (None, 0.5)]) is None
