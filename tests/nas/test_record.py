import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nas.record import Record
from nas.strategies import make_sampler
from search_spaces.dimensions import Choice, Integer
from search_spaces.errors import ConfigError, StateError
from search_spaces.space import Space

SPACE = Space({"ffn": Choice((128, 256, 512), ordered=True), "int8": Choice((False, True)), "depth": Integer(1, 50)})
ATTRS = {"space": "abc"}


def open_record(url: str | None, strategy: str = "evolution", directions=("maximize", "minimize")) -> Record:
    names = ["accuracy", "latency_ms"][: len(directions)]
    return Record.open(url, "run", directions, make_sampler(strategy, SPACE, 0, {}), names, ATTRS)


def score(params: dict) -> list[float]:
    return [params["ffn"] / 512, params["depth"] * (0.5 if params["int8"] else 1.0)]


def spend(record: Record, n_trials: int) -> None:
    for _ in range(n_trials):
        trial = record.ask(SPACE.distributions())
        record.tell(trial.number, score(trial.params), attrs={"seen": trial.number}, constraints={"limit": -0.5})


def contents(record: Record) -> list[tuple]:
    return [
        (t.number, t.state, t.params, t.values, t.user_attrs, dict(t.constraints), t.distributions)
        for t in record.trials()
    ]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_a_reopened_record_holds_the_same_trials_under_the_same_numbers(url):
    record = open_record(url)
    record.enqueue({"ffn": 512, "int8": True, "depth": 3})
    spend(record, 5)
    record.ask(SPACE.distributions())
    failed = record.ask(SPACE.distributions())
    record.tell(failed.number, None, TrialState.FAIL, {"cause": "diverged"})
    record.enqueue({"ffn": 128, "int8": False, "depth": 9})
    record.set_attr("seconds", {"prepare": 1.5})
    record.close()
    again = open_record(url)
    assert contents(again) == contents(record)
    assert dict(again.attrs) == {"space": "abc", "seconds": {"prepare": 1.5}}
    assert [trial.number for trial in again.running()] == [5]
    assert again.ask(SPACE.distributions()).params == {"ffn": 128, "int8": False, "depth": 9}


def test_enqueued_candidates_come_first_and_in_order(url):
    record = open_record(url)
    for depth in (7, 3, 5):
        record.enqueue({"ffn": 512, "int8": True, "depth": depth})
    assert [record.ask(SPACE.distributions()).params["depth"] for _ in range(3)] == [7, 3, 5]
    assert [trial.params["depth"] for trial in open_record(url).running()] == [7, 3, 5]


@pytest.mark.parametrize("strategy", ["evolution", "random", "tpe", "nsga2"])
def test_a_search_resumed_after_every_trial_proposes_what_an_uninterrupted_one_does(url, strategy):
    whole = open_record(None, strategy)
    spend(whole, 24)
    for _ in range(8):
        record = open_record(url, strategy)
        spend(record, 3)
        record.close()
    assert contents(open_record(url, strategy)) == contents(whole)


def test_what_a_sampler_keeps_with_the_study_is_stored(url):
    sampler = make_sampler("nsga2", SPACE, 0, {"population_size": 4})
    record = Record.open(url, "run", ["maximize", "minimize"], sampler, ["accuracy", "latency_ms"])
    spend(record, 12)
    storage = optuna.storages.RDBStorage(url)
    assert storage.get_study_system_attrs(storage.get_study_id_from_name("run"))["NSGAIISampler:parent:2"]


def test_a_told_result_counts_once(url):
    record = open_record(url)
    trial = record.ask(SPACE.distributions())
    assert record.tell(trial.number, [0.9, 1.0], attrs={"attempt": 1})
    before = contents(record)
    assert not record.tell(trial.number, [0.1, 9.0], attrs={"attempt": 2})
    assert not record.tell(trial.number, None, TrialState.FAIL)
    assert contents(record) == before == contents(open_record(url))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.9, math.inf], {}, r"told \[0.9, inf\]; values are finite numbers"),
        ([math.nan, 1.0], {}, "values are finite numbers"),
        ([0.9], {}, "told 1 values; the study has 2 objectives"),
        (None, {}, "told None as COMPLETE"),
        ([0.9, 1.0], {"state": TrialState.FAIL}, "as FAIL; a COMPLETE trial has values, others have none"),
        (None, {"state": TrialState.RUNNING}, "told as RUNNING; COMPLETE, FAIL and PRUNED are allowed"),
        ([0.9, 1.0], {"constraints": {"limit": math.inf}}, "constraint 'limit' is inf; it must be finite"),
        ([0.9, 1.0], {"constraints": {"limit": math.nan}}, "constraint 'limit' is nan"),
        ([0.9, 1.0], {"attrs": {"loss": math.nan}}, "attribute 'loss' = nan is not JSON"),
        ([0.9, 1.0], {"attrs": {"model": object()}}, "attribute 'model' = <object.* is not JSON"),
    ],
)
def test_a_rejected_tell_changes_nothing(url, values, options, message):
    record = open_record(url)
    trial = record.ask(SPACE.distributions())
    before = contents(record)
    with pytest.raises(StateError, match=message):
        record.tell(trial.number, values, **options)
    assert contents(record) == before == contents(open_record(url))
    assert record.tell(trial.number, [0.9, 1.0])


def test_only_an_asked_trial_can_be_told(url):
    record = open_record(url)
    with pytest.raises(StateError, match="trial 0: was never asked; the study has 0 trials"):
        record.tell(0, [0.9, 1.0])
    record.enqueue({"ffn": 128, "int8": False, "depth": 9})
    with pytest.raises(StateError, match="is WAITING; only a RUNNING trial can be told"):
        record.tell(0, [0.9, 1.0])


def test_notes_on_a_running_trial_survive(url):
    record = open_record(url)
    trial = record.ask(SPACE.distributions())
    record.annotate(trial.number, {"attempts": 2, "shape": (3, 4)})
    assert open_record(url).trial(trial.number).user_attrs == {"attempts": 2, "shape": [3, 4]}
    record.tell(trial.number, [0.9, 1.0])
    with pytest.raises(StateError, match="trial 0: is COMPLETE; only an unfinished trial can be annotated"):
        record.annotate(trial.number, {"attempts": 3})


def test_attributes_of_a_loaded_study_stay_as_they_are(url):
    open_record(url).set_attr("space", "changed")
    assert open_record(url).attrs["space"] == "changed"


def test_other_objectives_than_the_stored_ones_are_refused(url):
    open_record(url)
    with pytest.raises(ConfigError, match="made for maximize accuracy, minimize latency_ms; this search has maximize"):
        open_record(url, directions=("maximize",))


def test_optuna_and_its_dashboard_read_the_file(url):
    record = open_record(url)
    spend(record, 4)
    study = optuna.load_study(study_name="run", storage=url)
    assert [trial.params for trial in study.trials] == [trial.params for trial in record.trials()]
    assert study.metric_names == ["accuracy", "latency_ms"]
    assert {trial.number for trial in study.best_trials} == {trial.number for trial in record.study.best_trials}
    dashboard = pytest.importorskip("optuna_dashboard")
    app = dashboard.wsgi(url)
    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/api/studies/1",
        "QUERY_STRING": "after=0",
        "wsgi.errors": sys.stderr,
        "HTTP_HOST": "localhost",
        "wsgi.url_scheme": "http",
    }
    answer = json.loads(b"".join(app(environ, lambda line, headers, *_: status.append(line))))
    assert status == ["200 OK"]
    assert [trial["state"] for trial in answer["trials"]] == ["Complete"] * 4


def test_the_file_is_private_and_commits_to_a_write_ahead_log(url, tmp_path):
    record = open_record(url)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "study.db").stat().st_mode & 0o077 == 0
    record.close()
    assert [path.name for path in tmp_path.iterdir() if ".tmp" in path.name] == []


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from test_record import SPACE, open_record, score
record = open_record({url!r})
while True:
    trial = record.ask(SPACE.distributions())
    record.tell(trial.number, score(trial.params), attrs={{"seen": trial.number}}, constraints={{"limit": -0.5}})
    print(trial.number, flush=True)
"""


def test_no_told_result_is_lost_when_the_driver_is_killed(url):
    code = DRIVER.format(tests=str(Path(__file__).parent), url=url)
    told: set[int] = set()
    for life in (3, 7):
        driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        told |= {int(driver.stdout.readline()) for _ in range(life)}
        os.kill(driver.pid, signal.SIGKILL)
        told |= {int(line) for line in driver.communicate()[0].split()}
        record = open_record(url)
        done = {trial.number: trial for trial in record.trials([TrialState.COMPLETE])}
        assert told <= set(done)
        assert len(done) <= max(told) + 2
        assert all(t.values == score(t.params) and t.user_attrs == {"seen": t.number} for t in done.values())
        record.close()
