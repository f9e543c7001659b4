from pathlib import Path

import pytest
from optuna.study import StudyDirection
from sqlalchemy import create_engine, inspect

from nas.storage import open_storage, sqlite_file, transaction
from search_spaces.errors import ConfigError, StateError


def filled(path: Path) -> bytes:
    """Write a study with 50 trials into a file and return the file's bytes."""
    storage = open_storage(f"sqlite:///{path}")
    study = storage.create_new_study([StudyDirection.MINIMIZE], "run")
    with transaction(storage):
        for number in range(50):
            trial = storage.create_new_trial(study)
            storage.set_trial_user_attr(trial, "notes", "x" * 500 + str(number))
    storage.engine.dispose()
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "truncated", "cut in the header", "not a database", "zeroed inside"])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path, damage):
    path = tmp_path / "study.db"
    whole = filled(path)
    half = len(whole) // 2
    broken = {
        "empty": b"",
        "truncated": whole[: half + 100],
        "cut in the header": whole[:60],
        "not a database": b"\x00garbage" * 999,
        "zeroed inside": whole[:half] + b"\x00" * 8192 + whole[half + 8192 :],
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(StateError, match=rf"study {path}: the file is damaged \(.*\); nothing was changed"):
        open_storage(f"sqlite:///{path}")
    assert path.read_bytes() == broken


def test_a_transaction_is_written_whole_or_not_at_all(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = storage.create_new_study([StudyDirection.MINIMIZE], "run")

    def half_done() -> None:
        with transaction(storage):
            storage.set_study_user_attr(study, "first", 1)
            storage.create_new_trial(study)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert storage.get_study_user_attrs(study) == {}
    assert storage.get_n_trials(study) == 0
    with transaction(storage):
        storage.set_study_user_attr(study, "first", 1)
        storage.create_new_trial(study)
    assert storage.get_study_user_attrs(study) == {"first": 1}
    assert storage.get_n_trials(study) == 1


def test_a_crash_while_a_file_is_created_leaves_none_behind(tmp_path, monkeypatch):
    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nas.storage.os.link", crash)
        with pytest.raises(KeyboardInterrupt):
            open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    assert list(tmp_path.iterdir()) == []
    assert open_storage(f"sqlite:///{tmp_path / 'study.db'}").get_all_studies() == []


def test_a_database_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"the database failed .*unable to open database file") as caught:
        open_storage(f"sqlite:///{tmp_path / 'missing' / 'study.db'}")
    assert "\n" not in str(caught.value)


def test_a_url_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"storage: 'study\.db' is not a database URL; write e\.g\."):
        open_storage("study.db")


def test_only_sqlite_urls_have_a_file(tmp_path):
    assert sqlite_file("sqlite:////tmp/study.db") == Path("/tmp/study.db")
    assert sqlite_file("sqlite://") is None
    assert sqlite_file("postgresql://someone:secret@host/db") is None


def test_the_tables_are_optunas_own(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    open_storage(url)
    assert {"studies", "trials", "trial_params", "trial_values"} <= set(inspect(create_engine(url)).get_table_names())
