"""Runs tasks on Ray: one Ray task each, never retried by Ray, with a deadline, and every end turned into an outcome.

Knows how tasks end; not what they compute.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import ray
import torch
from ray import exceptions

from launch.ray_cluster import DEVICE_WAIT_S, Node, RayCluster, device_resource
from launch.ray_failures import failed, ray_failure
from nas.bundle import Bundle
from nas.executor import Kind, Outcome, Task
from nas.recipe import ClusterSettings, DeviceSettings
from nas.work import WORK, run_task
from search_spaces.errors import ConfigError

Work = Callable[[Task, Bundle], Outcome]
TICK_S = 5.0  # how often waiting looks at the nodes


@dataclass
class Attempt:
    """One task that Ray has: its stream gives ``None`` when the task begins, then its outcome."""

    task: Task
    stream: Any
    submitted: float
    started: float | None = None

    @property
    def deadline(self) -> float:
        """Return the monotonic second by which the task must end; waiting in Ray's queue does not count."""
        timeout_s = self.task.spec.get("timeout_s")
        return float("inf") if self.started is None or timeout_s is None else self.started + float(timeout_s)


class RayExecutor:
    """Runs ``train`` tasks on CPUs or GPUs and ``measure`` tasks alone on a node that has the task's device.

    A ``measure`` task takes all CPUs of its node, so that nothing trains beside it; it therefore begins when the
    training tasks of that node have ended.
    """

    def __init__(self, settings: ClusterSettings, targets: Mapping[str, DeviceSettings], work: Work = run_task) -> None:
        """Remember the settings; nothing is started.

        Args:
            settings: Where to run, and what a training task takes.
            targets: The devices as tasks call them, see `Recipe.targets`; their names are resources for measuring.
            work: What a worker does with a task; tests pass their own.
        """
        self._settings = settings
        self._names = {target: device.name for target, device in targets.items()}
        self._work = work
        self._cluster = RayCluster(settings, list(self._names.values()))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray-connect")
        self._connected: Future[None] | None = None
        self._attempts: dict[str, Attempt] = {}
        self._remote: Any = ray.remote(max_retries=0, retry_exceptions=False, num_returns="streaming")(attempt)
        self._bundle: Any = None
        self._slots: dict[Kind, int] = {}
        self._options: dict[tuple[Kind, str], dict[str, Any]] = {}
        self._last_look = 0.0

    def connect(self, wait: bool = True) -> None:
        """Start or join Ray; optional, since `start` does it.

        Args:
            wait: False returns at once and starts Ray and its workers in the background: it takes seconds, which the
                driver can use to load the teacher and the data.

        Raises:
            ConfigError: No Ray answers at the address.
        """
        if self._connected is None:
            self._connected = self._thread.submit(self._connect)
        if wait:
            self._connected.result()
            _take_signals_back()

    def _connect(self) -> None:
        """Join Ray and let every worker of a local one import what tasks need."""
        self._cluster.connect()
        if self._cluster.address is None:
            remote: Any = ray.remote(num_cpus=1, max_retries=0)(import_work)
            for _ in range(int(sum(node.cpus for node in self._cluster.nodes()))):
                remote.remote()

    def start(self, bundle: Bundle) -> None:
        """Connect, check that both kinds of task can run, and put the bundle into the object store.

        Raises:
            ConfigError: No Ray answers, or no node is large enough for a training task.
            DeviceError: No node offers a device.
        """
        self.connect()
        offering = {target: self._cluster.await_device(name) for target, name in self._names.items()}
        self._plan(self._cluster.nodes(), offering)
        self._bundle = ray.put(bundle)

    def _plan(self, nodes: list[Node], offering: Mapping[str, list[Node]]) -> None:
        """Decide what each kind of task takes and how many of them fit."""
        settings = self._settings
        fit = sum(_fits(node, settings) for node in nodes)
        if not fit:
            raise _too_large(nodes, settings)
        self._options["train", ""] = {"num_cpus": settings.cpus_per_trial, "num_gpus": settings.gpus_per_trial}
        self._slots = {"train": min(fit, settings.max_parallel or fit), "measure": 0}
        for target, some in offering.items():
            resource = device_resource(self._names[target])
            self._slots["measure"] += max(1, int(sum(node.resources[resource] for node in some)))
            alone = min(node.cpus for node in some)
            self._options["measure", target] = {"num_cpus": alone, "resources": {resource: 1}}

    def slots(self, kind: Kind) -> int:
        """Return how many tasks of a kind the cluster held when the search started."""
        return self._slots.get(kind, 1)

    def submit(self, task: Task) -> None:
        """Hand a task to Ray; its deadline, ``spec["timeout_s"]``, counts from the moment a worker begins it."""
        assert self._bundle is not None, "start() comes first"
        remote = self._remote.options(name=task.uid, **self._options[task.kind, task.device])
        stream = remote.remote(self._work, self._settings.cpus_per_trial, task, self._bundle)
        self._attempts[task.uid] = Attempt(task, stream, time.monotonic())

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the tasks that ended, at least one unless the time ran out; [] when none runs."""
        until = time.monotonic() + timeout_s
        while self._attempts:
            outcomes: list[Outcome] = []
            looks: tuple[Callable[[], list[Outcome]], ...] = (
                partial(self._advance, until),
                self._expire,
                self._stranded,
            )
            for look in looks:
                ended = look()
                outcomes += ended
                for outcome in ended:  # before the next look, so that no task ends twice
                    del self._attempts[outcome.uid]
            if outcomes or time.monotonic() >= until:
                return outcomes
        return []

    def _advance(self, until: float) -> list[Outcome]:
        """Sleep until something happens, a deadline passes or a tick is over; return what ended."""
        attempts = list(self._attempts.values())
        now = time.monotonic()
        pause = min([until - now, TICK_S, *(attempt.deadline - now for attempt in attempts)])
        streams = [attempt.stream for attempt in attempts]
        ready, rest = ray.wait(streams, num_returns=1, timeout=max(0.0, pause))
        more = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if ready and rest else []
        happened = {id(stream) for stream in [*ready, *more]}
        steps = [_step(attempt) for attempt in attempts if id(attempt.stream) in happened]
        return [outcome for outcome in steps if outcome is not None]

    def _expire(self) -> list[Outcome]:
        """Stop the tasks whose time is over."""
        late = [attempt for attempt in self._attempts.values() if attempt.deadline <= time.monotonic()]
        for attempt in late:
            ray.cancel(attempt.stream, force=True)
        return [
            failed(a.task, "timeout", f"no result after {a.task.spec['timeout_s']:g} s; its worker was stopped")
            for a in late
        ]

    def _stranded(self) -> list[Outcome]:
        """Give up the measurements that wait for devices which have left the cluster; Ray would wait for ever."""
        now = time.monotonic()
        waiting = [a for a in self._attempts.values() if a.task.kind == "measure" and a.started is None]
        overdue = [a for a in waiting if now - a.submitted > DEVICE_WAIT_S]
        if not overdue or now - self._last_look < TICK_S:
            return []
        self._last_look = now
        nodes = self._cluster.nodes()
        there = {resource for node in nodes for resource, amount in node.resources.items() if amount}
        ended = []
        for attempt in overdue:
            name = self._names[attempt.task.device]
            if device_resource(name) not in there:
                ray.cancel(attempt.stream, force=True)
                ended.append(failed(attempt.task, "node_lost", self._cluster.missing_device(name, len(nodes))))
        return ended

    def close(self) -> None:
        """Cancel what runs and leave Ray, stopping a local one; idempotent."""
        if self._connected is not None:
            self._connected.exception()  # wait for a start under way; its error was start()'s to raise
        for attempt in self._attempts.values():
            ray.cancel(attempt.stream, force=True)
        self._attempts.clear()
        self._bundle = None
        self._cluster.close()
        self._thread.shutdown()


def attempt(work: Work, n_threads: int, task: Task, bundle: Bundle) -> Iterator[Outcome | None]:
    """Run one task on a worker: yield None when it begins, then its outcome."""
    yield None
    torch.set_num_threads(n_threads)  # the process may have served a task of another size
    yield work(task, bundle)


def _take_signals_back() -> None:
    """Install the driver's SIGTERM handler again: Ray's own prints a stack trace before the driver can end tidily."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def import_work() -> None:
    """Import on a worker what its tasks will need; a module that is missing there is the task's to report."""
    for row in WORK.values():
        with suppress(ImportError):
            import_module(row.partition(":")[0])


def _step(attempt: Attempt) -> Outcome | None:
    """Take the next item of a stream: note that the task began, or return how it ended."""
    try:
        outcome = ray.get(next(attempt.stream))
    except exceptions.RayError as error:
        return ray_failure(attempt.task, error)
    if outcome is None:
        attempt.started = time.monotonic()
        return None
    return Outcome(attempt.task.uid, outcome.value, outcome.failure)


def _fits(node: Node, settings: ClusterSettings) -> int:
    """Return how many training tasks fit on a node at once."""
    fit = int(node.cpus // settings.cpus_per_trial)
    if settings.gpus_per_trial:
        fit = min(fit, int(node.resources.get("GPU", 0.0) / settings.gpus_per_trial))
    return fit


def _too_large(nodes: list[Node], settings: ClusterSettings) -> ConfigError:
    """Return the error for a training task that fits on no node."""
    largest = max((node.cpus for node in nodes), default=0.0)
    gpus = max((node.resources.get("GPU", 0.0) for node in nodes), default=0.0)
    return ConfigError(
        f"cluster.cpus_per_trial: {settings.cpus_per_trial} CPUs and {settings.gpus_per_trial:g} GPUs fit on no node; "
        f"the largest has {largest:g} CPUs and {gpus:g} GPUs. Ask for less, or add a node."
    )
