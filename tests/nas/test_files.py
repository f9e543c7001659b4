import errno
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.files import (
    MANIFEST,
    atomic_array,
    atomic_write,
    check_manifest,
    read_json,
    run_path,
    sha256_of,
    write_json,
    write_manifest,
)
from search_spaces.errors import ConfigError, StateError


def test_a_file_is_written_from_bytes_or_by_a_function(tmp_path):
    atomic_write(tmp_path / "deep" / "a", b"one")
    atomic_write(tmp_path / "b", lambda file: file.write(b"two"))
    assert (tmp_path / "deep" / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"two"


def test_a_failing_writer_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a"
    atomic_write(path, b"old")

    def half(file):
        file.write(b"ne")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        atomic_write(path, half)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file_intact(tmp_path, monkeypatch):
    path = tmp_path / "a"
    atomic_write(path, b"old")

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_array_becomes_a_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "values.npy"
    with suppress(KeyError), atomic_array(path, (2, 3), np.float16) as array:
        array[0] = 1
        raise KeyError
    assert list(path.parent.iterdir()) == []
    with atomic_array(path, (2, 3), np.float16) as array:
        array[:] = [[1, 2, 3], [4, 5, 6]]
    assert np.load(path).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert [found.name for found in path.parent.iterdir()] == ["values.npy"]


def test_sha256_is_the_known_value_of_the_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_json_comes_back_as_written(tmp_path):
    value = {"a": [1, 2.5, "ä", None, True], "b": {"c": {}}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(StateError, match=r"x\.json: is damaged"):
        read_json(tmp_path / "x.json")


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(StateError, match=r"x\.json: does not exist"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["a", "search-2", "sst2.best_1", "0", "a" * 64, "console"])
def test_a_slug_names_a_path_under_the_root(tmp_path, name):
    assert run_path(tmp_path, name) == tmp_path.resolve() / name


BAD_NAMES = ["", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a" * 300, "CON", "con", "nul.txt", "com1"]


@pytest.mark.parametrize("name", [*BAD_NAMES, ".hidden", "-rf", "a.", "a\n", "\uff41", "a\u202eb", "Ä"])
def test_a_name_that_could_leave_the_root_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name a file") as error:
        run_path(tmp_path, name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@given(st.text(max_size=80) | st.text("a./\\", max_size=8))
def test_no_name_at_all_leaves_the_root(name):
    root = Path("/srv/runs")
    with suppress(ConfigError):
        assert run_path(root, name).parent == root


def test_a_link_out_of_the_root_is_refused(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    (root / "evil").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="a link leads out"):
        run_path(root, "evil")


def test_a_manifest_lists_every_file_and_carries_facts(tmp_path):
    atomic_write(tmp_path / "deep" / "b.bin", b"b" * 100)
    atomic_write(tmp_path / "a.bin", b"a")
    write_manifest(tmp_path, {"name": "x"})
    write_manifest(tmp_path, {"name": "y"})
    manifest = check_manifest(tmp_path)
    assert manifest["name"] == "y"
    assert list(manifest["files"]) == ["a.bin", "deep/b.bin"]
    assert manifest["files"]["deep/b.bin"]["bytes"] == 100


def test_a_manifest_finds_a_damaged_and_a_missing_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"a" * 500)
    write_manifest(tmp_path)
    path.write_bytes(b"\0" * 500)
    with pytest.raises(StateError, match=r"a\.bin: is damaged"):
        check_manifest(tmp_path)
    path.unlink()
    with pytest.raises(StateError, match=r"a\.bin: is missing"):
        check_manifest(tmp_path)


def test_a_folder_without_manifest_is_unfinished(tmp_path):
    with pytest.raises(StateError, match=r"nas_manifest\.json: does not exist"):
        check_manifest(tmp_path)


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    (tmp_path / "x").touch()
    (folder / MANIFEST).write_text(json.dumps({"files": {"../x": {"sha256": sha256_of(tmp_path / "x")}}}))
    with pytest.raises(StateError, match="is missing"):
        check_manifest(folder)


def test_a_manifest_without_files_is_damaged(tmp_path):
    (tmp_path / MANIFEST).write_text("[]")
    with pytest.raises(StateError, match="has no 'files'"):
        check_manifest(tmp_path)
