from nas.devices.host import BYTES_TOGETHER, _together


def test_so_many_files_take_turns_and_the_rest_after_them() -> None:
    files = [bytes([i]) for i in range(7)]
    groups = [list(some) for some in _together(files, 3)]
    assert groups == [files[:3], files[3:6], files[6:]]


def test_files_that_are_large_together_are_loaded_one_after_the_other() -> None:
    half = bytes(BYTES_TOGETHER // 2)
    assert [len(some) for some in _together([half, half, b"1"], 16)] == [2, 1]


def test_a_file_that_is_too_large_alone_is_measured_all_the_same() -> None:
    assert [len(some) for some in _together([b"1", bytes(BYTES_TOGETHER + 1), b"2"], 16)] == [1, 1, 1]


def test_without_a_file_nothing_is_loaded() -> None:
    assert list(_together([], 16)) == []
