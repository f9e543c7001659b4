import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas.run_folder import RunFolder, fresh_folder
from search_spaces.errors import ConfigError, StateError


def test_a_second_process_cannot_take_a_locked_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.lock()
    program = f"from nas.run_folder import *\nRunFolder(Path({str(folder.path)!r})).lock()"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"in use by process {os.getpid()}" in other.stderr
    folder.unlock()
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    program = (
        "import os, signal\nfrom nas.run_folder import *\n"
        f"RunFolder(Path({str(folder.path)!r})).lock()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    folder.lock()
    with pytest.raises(StateError):
        RunFolder(folder.path).lock()
    folder.unlock()


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"run folder .*file/run: cannot be written"):
        RunFolder(tmp_path / "file" / "run").create()


def test_a_run_folder_is_private_and_fresh_names_count_up(tmp_path: Path) -> None:
    first = fresh_folder(tmp_path, "a")
    first.create()
    assert first.path.stat().st_mode & 0o077 == 0
    assert fresh_folder(tmp_path, "a").path.name == "a-2"
