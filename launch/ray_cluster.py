"""The connection to Ray: a private local instance, or somebody's cluster, and what its nodes offer.

Knows nodes and resources; not what a task does.
"""

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

import compressors
import launch
import nas
import search_spaces
from launch.ray_address import INIT_ERRORS, check_address, cluster_address, init_error
from nas.recipe import ClusterSettings
from search_spaces.errors import DeviceError

log = logging.getLogger(__name__)

OUR_PACKAGES = (search_spaces, compressors, nas, launch)
DEVICE_WAIT_S = 60.0


@dataclass(frozen=True)
class Node:
    """One living node: its address and everything it offers, whether in use or not."""

    address: str
    resources: dict[str, float]

    @property
    def cpus(self) -> float:
        """Return its CPUs; 0 on a head that runs no tasks."""
        return self.resources.get("CPU", 0.0)


def device_resource(device: str) -> str:
    """Return the custom resource that counts measurement slots, e.g. ``nas_device:cpu``."""
    return f"nas_device:{device}"


class RayCluster:
    """One connection to Ray, made by `connect` and undone by `close`."""

    def __init__(self, settings: ClusterSettings, devices: Sequence[str]) -> None:
        """Remember where to connect; nothing is started.

        Args:
            settings: ``address``, else ``RAY_ADDRESS``, else a local instance that dies with this process.
            devices: Names of the devices; a local instance offers one slot of each.
        """
        self.address = cluster_address(settings)
        self._settings = settings
        self._devices = devices
        self._folder: Path | None = None
        self._is_ours = False

    def connect(self) -> None:
        """Start or join Ray; a Ray that this process has already started is used as it is.

        Raises:
            ConfigError: No Ray answers at the address, it refuses this process, or none can be started.
        """
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        check_address(self._settings)
        try:
            if self.address is None:
                self._start_local()
            else:
                self._join(self.address)
        except INIT_ERRORS as error:
            raise init_error(self.address, error) from None
        self._is_ours = True

    def _start_local(self) -> None:
        """Start a Ray that only this user can reach: own token, own folder, no dashboard."""
        ensure_private_token()
        self._folder = Path(tempfile.mkdtemp(prefix="nas-"))  # 0700; Ray opens its own folder to everybody
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            resources={device_resource(device): 1 for device in self._devices},
            _temp_dir=str(self._folder / "ray"),
        )

    def _join(self, address: str) -> None:
        """Join a running cluster; our code travels with the job, so its nodes need the libraries only."""
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": [str(Path(package.__path__[0])) for package in OUR_PACKAGES]},
        )

    def nodes(self) -> list[Node]:
        """Return the living nodes."""
        return [Node(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def await_device(self, device: str, wait_s: float = DEVICE_WAIT_S) -> list[Node]:
        """Return the nodes that offer a device, after waiting for one to join if need be.

        Raises:
            DeviceError: None joined in time; the message holds the command that makes one join.
        """
        deadline = time.monotonic() + wait_s
        is_told = False
        while True:
            nodes = self.nodes()
            offering = [node for node in nodes if node.resources.get(device_resource(device))]
            if offering:
                return offering
            missing = self.missing_device(device, len(nodes))
            if time.monotonic() >= deadline:
                raise DeviceError(missing)
            if not is_told:
                log.warning("%s", missing)
            is_told = True
            time.sleep(1.0)

    def missing_device(self, device: str, n_nodes: int) -> str:
        """Return the message for a device that no node offers."""
        resource = device_resource(device)
        return (
            f"device '{device}': 0 of {n_nodes} nodes offer {resource}; one must. Join one with: "
            f"ray start --address={self.address or 'HEAD:6379'} --resources='{{\"{resource}\": 1}}'"
        )

    def close(self) -> None:
        """Leave Ray, and stop it if it is our local one; idempotent."""
        if self._is_ours:
            ray.shutdown()
            self._is_ours = False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def ensure_private_token() -> None:
    """Make Ray's token file readable by its owner only, and create it so; Ray itself would create it open to all.

    A mode or a token that the user has set by ``RAY_AUTH_*`` is respected.
    """
    if any(name.startswith("RAY_AUTH_") for name in os.environ):
        return
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if token.exists():
        token.chmod(0o600)
    else:
        with open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
