import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from launch.ray_cluster import RayCluster, ensure_private_token
from launch.ray_executor import RayExecutor
from nas.bundle import Bundle, Outputs
from nas.data.tokens import Tokens
from nas.executor import Outcome, Task
from nas.recipe import ClusterSettings, DeviceSettings
from search_spaces.errors import ConfigError, DeviceError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


def work(task: Task, bundle: Bundle) -> Outcome:
    do = task.spec["do"]
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "sleep":
        time.sleep(60)
    if do == "raise":
        raise KeyError("not caught by the work")
    value: dict[str, Any] = {
        "labels": int(bundle.train.labels.sum()),
        "is_writeable": bundle.outputs.logits.flags.writeable,
        "threads": torch.get_num_threads(),
        "echo": task.blobs.get("artefact", b"")[::-1],
        "span": (time.monotonic(), time.sleep(float(task.spec.get("for_s", 0))) or time.monotonic()),
    }
    return Outcome(task.uid, value=value)


def make_bundle() -> Bundle:
    rows = Tokens(np.arange(6, dtype=np.int32), np.zeros(6, np.uint8), np.array([0, 3, 6]), np.array([1, 1]))
    logits = np.zeros((200_000, 2), np.float16)
    return Bundle("text_encoder", "uniform", {}, {}, {}, rows, rows, None, Outputs(logits), {}, "fingerprint")


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    targets = {"": DeviceSettings(), "phone": DeviceSettings(name="phone")}
    executor = RayExecutor(ClusterSettings(), targets, work)
    executor.connect(wait=False)
    executor.start(make_bundle())
    yield executor
    executor.close()
    executor.close()
    assert not ray.is_initialized()


def task(uid: str, do: str = "echo", kind: Any = "train", **spec: Any) -> Task:
    return Task(uid, kind, {"do": do, **spec}, {"artefact": b"abc"})


def drain(executor: RayExecutor, n: int) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    while len(outcomes) < n:
        got = executor.wait(30.0)
        assert got, f"only {outcomes} within 30 s"
        outcomes |= {outcome.uid: outcome for outcome in got}
    return outcomes


def cause(outcome: Outcome) -> str:
    assert outcome.failure is not None
    assert outcome.value is None
    assert "\n" not in outcome.failure.message
    return outcome.failure.cause


def test_an_address_where_nothing_listens_fails_in_one_line() -> None:
    executor = RayExecutor(ClusterSettings(address="127.0.0.1:1"), {"": DeviceSettings()}, work)
    with pytest.raises(ConfigError, match=r"no Ray answers at '127.0.0.1:1'.*ray start --head"):
        executor.start(make_bundle())
    executor.close()


def test_a_task_gets_the_bundle_uncopied_and_gives_bytes_back(executor: RayExecutor) -> None:
    executor.submit(task("a"))
    value = drain(executor, 1)["a"].value
    assert value is not None
    assert value["labels"] == 2
    assert not value["is_writeable"]
    assert value["echo"] == b"cba"
    assert value["threads"] == 1


def test_waiting_for_nothing_returns_at_once(executor: RayExecutor) -> None:
    assert executor.wait(1000.0) == []


def test_a_killed_worker_is_a_failed_task_and_the_next_one_runs(executor: RayExecutor) -> None:
    executor.submit(task("dead", "die"))
    assert cause(drain(executor, 1)["dead"]) == "worker_died"
    executor.submit(task("alive"))
    assert drain(executor, 1)["alive"].value is not None


def test_a_task_past_its_deadline_is_stopped_and_the_others_go_on(executor: RayExecutor) -> None:
    executor.submit(task("slow", "sleep", timeout_s=0.3))
    executor.submit(task("quick", timeout_s=30.0))
    outcomes = drain(executor, 2)
    assert cause(outcomes["slow"]) == "timeout"
    assert "0.3 s" in outcomes["slow"].failure.message  # type: ignore[union-attr]
    assert outcomes["quick"].value is not None


def test_time_in_the_queue_does_not_count_towards_the_deadline(executor: RayExecutor) -> None:
    n = 4 * executor.slots("train")
    for i in range(n):
        executor.submit(task(str(i), for_s=1.0, timeout_s=3.0))
    assert all(outcome.value for outcome in drain(executor, n).values())


def test_an_error_outside_the_work_is_one_line_with_its_reason(executor: RayExecutor) -> None:
    executor.submit(task("bad", "raise"))
    outcome = drain(executor, 1)["bad"]
    assert cause(outcome) == "error"
    assert "not caught by the work" in outcome.failure.message  # type: ignore[union-attr]


def test_nothing_trains_beside_a_measurement(executor: RayExecutor) -> None:
    for i in range(3):
        executor.submit(task(f"train{i}", for_s=0.2))
        executor.submit(task(f"measure{i}", kind="measure", for_s=0.2))
    outcomes = drain(executor, 6)
    spans = {uid: outcome.value["span"] for uid, outcome in outcomes.items() if outcome.value}
    for uid, (begin, end) in spans.items():
        if uid.startswith("measure"):
            assert all(b >= end or e <= begin for other, (b, e) in spans.items() if other != uid)


def test_a_measurement_takes_the_slot_of_its_device(executor: RayExecutor) -> None:
    assert {"nas_device:cpu", "nas_device:phone"} <= set(ray.cluster_resources())
    for device in ("", "phone"):
        executor.submit(replace(task(f"on {device}", kind="measure"), device=device))
    assert all(outcome.value for outcome in drain(executor, 2).values())


def test_slots_are_what_the_machine_holds(executor: RayExecutor) -> None:
    assert executor.slots("train") == int(ray.cluster_resources()["CPU"])
    assert executor.slots("measure") == 2, "one a device"


def test_a_trial_too_large_for_every_node_is_refused(executor: RayExecutor) -> None:
    large = RayExecutor(ClusterSettings(cpus_per_trial=4000), {"": DeviceSettings()}, work)
    with pytest.raises(ConfigError, match="4000 CPUs and 0 GPUs fit on no node"):
        large.start(make_bundle())
    large.close()
    assert ray.is_initialized(), "a Ray that was there before is left running"


def test_a_device_that_no_node_offers_is_named_with_the_command_to_join(executor: RayExecutor) -> None:
    with pytest.raises(DeviceError, match=r"device 'pi5': 0 of 1 nodes offer nas_device:pi5.*ray start --address"):
        RayCluster(ClusterSettings(), ["pi5"]).await_device("pi5", wait_s=0.0)


def test_the_token_of_ray_is_readable_by_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_AUTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_private_token()
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    token.chmod(0o644)
    ensure_private_token()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
