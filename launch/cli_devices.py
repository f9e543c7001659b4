"""The commands about devices: options and help texts only; the work is in `launch.devices` and `launch.measure`."""

from pathlib import Path
from typing import Annotated

import typer

from launch.running import run_command

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the device, e.g. pi5.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the backend; repeat it.")
]
Threads = Annotated[int | None, typer.Option(help="Threads of the runtime.")]
Batch = Annotated[int | None, typer.Option(help="Rows of one call.")]
Tokens = Annotated[int | None, typer.Option(help="Length of its rows; default the median of the data.")]
Mix = Annotated[
    str | None, typer.Option(metavar="N:WEIGHT,...", help="Several lengths and how often they occur, e.g. 16:3,64:1.")
]
Affinity = Annotated[str | None, typer.Option(metavar="N,...", help="Processors to measure on; default the idlest.")]
Note = Annotated[str | None, typer.Option(help="What a reader must know besides, e.g. the power mode.")]


@app.callback(invoke_without_command=True)
def devices(context: typer.Context) -> None:
    """List the devices, try each of them, and say what is missing for those that do not work.

    A device is a backend with settings: `cpu`, `torch` and `openvino` are built in, others are added by name.

    **Examples**

        nas devices

        nas devices add server --backend onnxruntime --threads 2 --mix 16:3,64:1

        nas search recipe.yaml --device server
    """
    if context.invoked_subcommand is None:
        run_command("devices")


@app.command()
def add(
    name: Name,
    backend: Annotated[str, typer.Option(help="Row of the table of backends; nas devices lists them.")],
    threads: Threads = None,
    batch: Batch = None,
    tokens: Tokens = None,
    mix: Mix = None,
    affinity: Affinity = None,
    option: Options = None,
    note: Note = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the device of this name.")] = False,
) -> None:
    """Describe a device in a small YAML file, which recipes and --device name.

    **Example**

        nas devices add laptop --backend torch --threads 2 --option compile=true --note "on battery"
    """
    values = {"threads": threads, "batch": batch, "tokens": tokens, "note": note}
    run_command("devices add", name, backend, values, (mix, affinity, option or []), force)


@app.command()
def show(name: Name) -> None:
    """Print the whole settings of a device as YAML.

    **Example**

        nas devices show cpu
    """
    run_command("devices show", name)


@app.command()
def profile(
    name: Name,
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="Recipe whose teacher, data, space and methods count.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Local folder or Hugging Face id of the teacher.")] = None,
    data: Annotated[str | None, typer.Option(help="csv, tsv, jsonl or parquet file, or hub id.")] = None,
    shapes: Annotated[
        int | None, typer.Option(help="Untrained students to measure; default the recipe's, with --from 10.")
    ] = None,
    other: Annotated[
        str | None, typer.Option("--from", metavar="OTHER", help="A device with a profile, whose predictions help.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else a local Ray.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe.")] = None,
) -> None:
    """Measure untrained students on a device, and keep what predicts the latency of all others.

    Searches for students of a teacher of the same shape use it instead of measuring anew, after a look whether it
    still holds. Without RECIPE, teacher and data it takes those of the quickstart. Nothing is trained.

    **Examples**

        nas devices profile server recipe.yaml

        nas devices profile pi5 --teacher ./my-model --data sst2.csv --from server
    """
    overrides = {
        "teacher.model": teacher,
        "data.source": data,
        "device.name": name,
        "search.profile_shapes": shapes,
        "cluster.address": address,
    }
    run_command("devices profile", recipe, overrides, sets or [], other)


@app.command()
def runner(
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("prentice-runner.pyz"),
) -> None:
    """Write the program that measures on a board: one file for Python 3.11 with numpy and onnxruntime.

    **Example**

        nas devices runner --output prentice-runner.pyz
    """
    run_command("devices runner", output)


@app.command()
def runtime(
    name: Annotated[str, typer.Argument(metavar="NAME", help="executorch or litert.")],
) -> None:
    """Print the commands that give a runtime an environment of its own, where its backend finds it.

    For runtimes whose packages do not go together with those of the project; nothing is installed here.

    **Examples**

        nas devices runtime litert

        nas devices runtime litert | sh
    """
    run_command("devices runtime", name)


@app.command()
def remove(name: Name) -> None:
    """Delete the file of a device.

    **Example**

        nas devices remove laptop
    """
    run_command("devices remove", name)


def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="ONNX file, or folder or hub id of a model.")],
    device: Annotated[str, typer.Option(help="Device to measure on.")] = "cpu",
    reference: Annotated[str | None, typer.Option(metavar="MODEL", help="Model to compare with, in turns.")] = None,
    threads: Threads = None,
    batch: Batch = None,
    tokens: Tokens = None,
    mix: Mix = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="INPUT=N,N,...", help="Whole shape of an input; repeat it.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON, too.")] = None,
) -> None:
    """Measure a model on a device as a search does: warm, alone, in turns with a reference.

    An encoder of Hugging Face is exported for the device first; an ONNX file of any kind is taken as it is, its inputs
    filled by their shapes. Prints percentiles with an interval, memory, throughput, energy and the environment.

    **Examples**

        nas measure ./my-model --device cpu --tokens 32

        nas measure my-student/model.onnx --reference ./my-model --json figures.json
    """
    values = {"threads": threads, "batch": batch, "tokens": tokens}
    run_command("measure", (model, reference), device, values, (mix, shape or []), json)
