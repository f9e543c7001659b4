"""The report of `nas merge`: tables of rich, and the README of the student."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from launch.compress_table import table_of
from launch.report import megabytes, milliseconds, score
from nas.merged import AtTask, Merged, Worth

KINDS = ("teacher", "student of it alone", "one for all")


def tables(made: Merged) -> Iterator[RenderableType]:
    """Yield what is printed of a student of several teachers."""
    yield _tasks(made)
    yield ""
    yield escape(size_line(made))
    for task in made.tasks:
        for kind, worth in zip(KINDS, _worths(task), strict=True):
            if worth is not None and worth.doubts:
                yield escape(f"latency at {task.task}, {kind}: {', '.join(worth.doubts)}")
    yield "latency: median of one call with a text of the task's length; the call of one for all answers every task"


def _tasks(made: Merged) -> Table:
    """Return the three ways to solve each task."""
    table = table_of("tasks", "task", "", "accuracy", "test", "latency", "faster", "file")
    for task in made.tasks:
        for kind, worth in zip(KINDS, _worths(task), strict=True):
            if worth is not None:
                name = escape(task.task) if kind == KINDS[0] else ""
                table.add_row(name, kind, *_figures(worth))
    return table


def _worths(task: AtTask) -> tuple[Worth, Worth | None, Worth]:
    """Return the figures in the order of `KINDS`."""
    return task.teacher, task.alone, task.merged


def _figures(worth: Worth) -> tuple[str, ...]:
    """Return accuracy, test accuracy, latency, speed-up and size for people."""
    test = "-" if worth.test_accuracy is None else score(worth.test_accuracy)
    latency = milliseconds(worth.latency_ms), f"{worth.speedup:.1f}x"
    return score(worth.accuracy), test, *latency, megabytes(worth.size_bytes)


def size_line(made: Merged) -> str:
    """Return how large one file is against several."""
    own, teachers = len(made.artefact), sum(task.teacher.size_bytes for task in made.tasks)
    told = f"size: {megabytes(own)} in one file; {len(made.tasks)} teachers {megabytes(teachers)}"
    if made.alone_bytes is None:
        return told
    return f"{told}, {len(made.tasks)} students {megabytes(made.alone_bytes)} ({made.alone_bytes / own:.2f}x)"


def card(made: Merged, name: str) -> str:
    """Return the README of the student: what it is, what it gives, how to use it."""
    rows = "\n".join(
        f"| {task.task} | `{task.output}` | {', '.join(task.labels)} | {task.merged.accuracy:.4f} "
        f"| {task.teacher.accuracy:.4f} | {task.merged.latency_ms:.3f} ms | {task.teacher.latency_ms:.3f} ms |"
        for task in made.tasks
    )
    uniform = made.compressed.model.config.is_uniform
    steps = " then ".join(map(str, made.compressed.steps))
    return f"""---
library_name: {"transformers" if uniform else "prentice"}
pipeline_tag: text-classification
tags: [distillation, multi-task, onnx]
---
# {name}

One student of {len(made.tasks)} teachers: {steps}. One trunk reads the text, each task has an output of its own.

| task | output of model.onnx | labels | accuracy | its teacher's | latency | its teacher's |
|---|---|---|---:|---:|---:|---:|
{rows}

{size_line(made)}.

## Use

```python
import numpy as np, onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this-folder")
session = onnxruntime.InferenceSession("this-folder/model.onnx", providers=["CPUExecutionProvider"])
row = tokenizer("a text", truncation=True, return_token_type_ids=True, return_tensors="np")
feed = {{node.name: row[node.name].astype(np.int64) for node in session.get_inputs()}}
answer, = session.run(["{made.tasks[0].output}"], feed)  # of several tasks: name several outputs
```

The first output, `logits`, has the columns of all tasks side by side; so do the full-precision weights, which load with
`{"transformers.AutoModelForSequenceClassification" if uniform else "nas.load_student"}`. A row's probabilities are the
softmax over the columns of one task.
"""
