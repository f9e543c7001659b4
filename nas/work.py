"""What a worker does with a task: look the kind up, run it, and turn whatever happens into an outcome."""

import traceback

from nas.bundle import Bundle
from nas.executor import Failure, Outcome, Task
from search_spaces.errors import DivergedError, UnansweredError
from search_spaces.registry import Table

MAX_MESSAGE = 300
WORK = Table("kind of task", {"train": "nas.trial:train_student", "measure": "nas.trial:measure_shapes"})


def run_task(task: Task, bundle: Bundle) -> Outcome:
    """Run a task to its end and return what became of it; never raises, so one bad trial cannot end a search."""
    try:
        return Outcome(task.uid, value=WORK.load(task.kind)(task, bundle))
    except DivergedError as error:
        return Outcome(task.uid, failure=Failure("diverged", _line(error)))
    except UnansweredError as error:
        return Outcome(task.uid, failure=Failure("no_answer", _line(error)))
    except MemoryError as error:
        return Outcome(task.uid, failure=Failure("out_of_memory", _line(error) or "the worker ran out of memory"))
    except Exception as error:  # the one broad except: user code and libraries may raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
        return Outcome(task.uid, failure=Failure("error", f"{type(error).__name__} at {place}: {_line(error)}"))


def _line(error: BaseException) -> str:
    """Return an error's message as one line of bounded length."""
    return " ".join(str(error).split())[:MAX_MESSAGE]
