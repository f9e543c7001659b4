"""Energy counters: read where they can be, and nothing made up where they cannot."""

from pathlib import Path

import pytest

from nas.devices.energy import energy_mj


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
