"""Clusters that may not or cannot be joined; real ones live in processes of their own, as Ray reads its mode once."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.ray_address import check_address
from nas.recipe import ClusterSettings
from search_spaces.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import sys
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
JOIN = """
import sys
import ray
from launch.ray_cluster import RayCluster
from nas.recipe import ClusterSettings
from search_spaces.errors import ConfigError
ray.__version__ = sys.argv[2] or ray.__version__
try:
    RayCluster(ClusterSettings(address=sys.argv[1] or None), ["cpu"]).connect()
except ConfigError as error:
    print(f"refused: {error}")
"""


def process(script: str, home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**quiet, "HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def token(letter: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": letter * 64}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster that asks for a token."""
    head = process(HEAD, tmp_path_factory.mktemp("home"), **token("a"))
    assert head.stdout is not None
    yield head.stdout.readline().strip()
    head.communicate(timeout=60)


@pytest.fixture(scope="module")
def answers(address: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """How processes end that try to join, and what they print; all at once, as they spend their time on starting."""
    home, other, lonely = (tmp_path_factory.mktemp("home") for _ in range(3))
    deep = lonely / ("d" * 60)
    deep.mkdir()
    joining = {
        "right token": process(JOIN, other, address, "", **token("a")),
        "other token": process(JOIN, home, address, "", **token("b")),
        "no token": process(JOIN, home, address, "", RAY_AUTH_MODE="token"),
        "other version": process(JOIN, home, address, "0.0.1", **token("a")),
        "deep folder": process(JOIN, lonely, "", "", TMPDIR=str(deep)),
    }
    printed = {name: one.communicate(timeout=240)[0] for name, one in joining.items()}
    return {name: (one.returncode, printed[name]) for name, one in joining.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "begins", "says"),
    [
        ("other token", "cluster.address: ", "did not accept this process's token"),
        ("no token", "cluster.address: ", "both need the same one"),
        ("other version", "cluster.address: ", "Version mismatch"),
        ("deep folder", "cluster: the folder for temporary files is too deep", "Set TMPDIR to a short path"),
    ],
)
def test_who_cannot_join_is_told_in_one_line(
    answers: dict[str, tuple[int, str]], who: str, begins: str, says: str
) -> None:
    _, output = answers[who]
    assert output.startswith(f"refused: {begins}"), output
    assert says in output
    assert len(output.splitlines()) == 1


@pytest.mark.slow
def test_the_right_token_joins(answers: dict[str, tuple[int, str]]) -> None:
    assert answers["right token"] == (0, "")


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_a_cluster_on_the_network_needs_a_token_or_a_word_in_the_recipe(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    monkeypatch.setattr(socket, "create_connection", lambda where, timeout: reached.append(where[0]) or socket.socket())
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    for address in ("192.0.2.1:6379", "head.example:6379", "ray://192.0.2.1:10001"):
        with pytest.raises(ConfigError, match=r"RAY_AUTH_MODE=token .* or set cluster\.allow_unauthenticated: true"):
            check_address(ClusterSettings(address=address))
    assert reached == []
    for address in ("127.0.0.1:6379", "localhost:6379", "[::1]:6379"):
        check_address(ClusterSettings(address=address))
    check_address(ClusterSettings(address="192.0.2.1:6379", allow_unauthenticated=True))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_address(ClusterSettings(address="192.0.2.2:6379"))
    assert reached == ["127.0.0.1", "localhost", "::1", "192.0.2.1", "192.0.2.2"]


def test_the_address_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray answers at '127.0.0.1:1'"):
        check_address(ClusterSettings())
    check_address(ClusterSettings(executor="inprocess"))
