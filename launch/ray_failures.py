"""What Ray's errors mean for a search: a cause and one line for people.

Knows Ray's exception classes, never their texts.
"""

import logging

from ray import exceptions

from nas.executor import Cause, Failure, Outcome, Task

log = logging.getLogger(__name__)

# First match wins; RayError itself comes last.
CAUSES: tuple[tuple[type[Exception], Cause, str], ...] = (
    (exceptions.OutOfMemoryError, "out_of_memory", "the node ran out of memory and Ray stopped the worker"),
    (exceptions.WorkerCrashedError, "worker_died", "the worker process died: killed, or crashed in native code"),
    (exceptions.NodeDiedError, "node_lost", "the node left the cluster"),
    (exceptions.LocalRayletDiedError, "node_lost", "Ray died on the driver's node"),
    (exceptions.ObjectLostError, "node_lost", "the node that held the data left the cluster"),
    (exceptions.TaskUnschedulableError, "node_lost", "no node can run the task"),
    (exceptions.OutOfDiskError, "error", "the node's disk is full"),
    (exceptions.RuntimeEnvSetupError, "error", "the node could not set up our code"),
    (exceptions.RayError, "error", "Ray could not run the task"),
)


def ray_failure(task: Task, error: Exception) -> Outcome:
    """Turn what Ray says of a task that gave no outcome into a failure with its cause."""
    cause, message = next((cause, words) for kind, cause, words in CAUSES if isinstance(error, kind))
    log.debug("task %s: %s", task.uid, error)
    if cause == "error":
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message += f" ({type(error).__name__}: {lines[-1] if lines else 'no reason given'})"
    return failed(task, cause, message)


def failed(task: Task, cause: Cause, message: str) -> Outcome:
    """Return a failed outcome."""
    return Outcome(task.uid, failure=Failure(cause, message))
