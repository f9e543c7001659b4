"""A cluster of two nodes on one machine; in a process of its own, since Ray reads its authentication mode once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys, time
import numpy as np
import ray
from ray.cluster_utils import Cluster
from launch import ray_executor
from launch.ray_executor import RayExecutor
from nas.bundle import Bundle, Outputs
from nas.data.tokens import Tokens
from nas.executor import Outcome, Task
from nas.recipe import ClusterSettings, DeviceSettings

def work(task, bundle):
    time.sleep(task.spec["for_s"])
    return Outcome(task.uid, value={"rows": len(bundle.train), "path": sys.path})

def collect(executor, n):
    for _ in range(n):
        while not (outcomes := executor.wait(30.0)):
            pass
        for o in outcomes:
            found[o.uid] = o.value or {"cause": o.failure.cause, "message": o.failure.message}

rows = Tokens(np.arange(3, dtype=np.int32), np.zeros(3, np.uint8), np.array([0, 3]), np.array([1]))
bundle = Bundle("text_encoder", "uniform", {}, {}, {}, rows, rows, None, Outputs(np.zeros((1, 2), np.float16)), {}, "f")
small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
board = cluster.add_node(num_cpus=1, resources={"nas_device:pi5": 1}, **small)
settings = ClusterSettings(address=cluster.address, allow_unauthenticated=True)
executor = RayExecutor(settings, {"": DeviceSettings(name="pi5")}, work)
executor.start(bundle)
found = {"slots": [executor.slots("train"), executor.slots("measure")]}
executor.submit(Task("measured", "measure", {"for_s": 0}))
collect(executor, 1)
executor.submit(Task("lost", "measure", {"for_s": 100}))
while executor._attempts["lost"].started is None:
    executor.wait(0.2)
cluster.remove_node(board, allow_graceful=False)
collect(executor, 1)
ray_executor.DEVICE_WAIT_S = ray_executor.TICK_S = 0.5
executor.submit(Task("stranded", "measure", {"for_s": 0}))
executor.submit(Task("trained", "train", {"for_s": 0}))
while "trained" not in found or "stranded" not in found:
    collect(executor, 1)
executor.close()
cluster.shutdown()
print(json.dumps(found))
"""
ROOT = Path(__file__).resolve().parents[2]
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    script = home / "cluster.py"
    script.write_text(SCRIPT)
    threshold = {"RAY_health_check_failure_threshold": "2", "RAY_AUTH_MODE": "disabled", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **HEALTH, **threshold, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_a_joined_cluster_gets_our_code_and_the_bundle(found: dict[str, Any]) -> None:
    assert found["slots"] == [2, 1]
    assert found["measured"]["rows"] == 1
    shipped = [folder for folder in found["measured"]["path"] if "py_modules_files" in folder]
    assert len(shipped) == 4, "each of our packages"


@pytest.mark.slow
def test_a_node_that_leaves_is_the_cause_of_its_task(found: dict[str, Any]) -> None:
    assert found["lost"] == {"cause": "node_lost", "message": "the node left the cluster"}


@pytest.mark.slow
def test_training_goes_on_and_measuring_fails_with_advice_when_the_device_has_left(found: dict[str, Any]) -> None:
    assert found["trained"]["rows"] == 1
    assert found["stranded"]["cause"] == "node_lost"
    assert "0 of 1 nodes offer nas_device:pi5" in found["stranded"]["message"]
    assert "ray start --address=" in found["stranded"]["message"]
