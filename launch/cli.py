"""The command line: options and help texts only; the work is in `launch.commands`, imported when a command runs."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from launch import cli_devices
from launch.listing import print_lines
from launch.running import run_command
from nas.methods import METHODS

# Idle threads of a parallel region sleep instead of spinning: beside another busy process on few cores, spinning
# makes a training step several times slower. Read by OpenMP when torch is imported, here and in Ray workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class WithCompressors(TyperCommand):
    """A command whose help ends with all methods of compression."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then every method with one line; this imports torch, other helps do not."""
        super().format_help(ctx, formatter)
        run_command("compressors", None)


class WithMethods(TyperCommand):
    """A command whose help ends with all methods that are compared."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then every method with one line."""
        super().format_help(ctx, formatter)
        print_lines(("method", "what it is"), [(method.name, method.title) for method in METHODS.values()])


app = typer.Typer(
    name="nas",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""
The best student of **your** teacher for **this** device.

A search trains small students of a fine-tuned model by distillation, prunes and quantizes them on the way, measures
the deployed artefacts, and keeps what no other student beats.

    nas search quickstart        # offline, about seven minutes on two cores

    nas report runs/quickstart

    nas compress --step int8     # by hand, without a search
""",
)

Teacher = Annotated[str | None, typer.Option(help="Local folder or Hugging Face id of the teacher.")]
Data = Annotated[str | None, typer.Option(help="csv, tsv, jsonl or parquet file (.gz too), or hub id.")]
Device = Annotated[str | None, typer.Option(help="Device to measure on; see nas devices.")]
Devices = Annotated[
    list[str] | None, typer.Option("--device", help="Device to measure on, see nas devices; repeat it for several.")
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe.")]
LabRecipe = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="Recipe whose teacher, data, device and training count.")
]
Steps = Annotated[
    list[str] | None, typer.Option(metavar="METHOD[:KNOB=VALUE,...]", help="A method; repeat it, in order.")
]
StepFile = Annotated[Path | None, typer.Option(help="YAML or JSON file with a list of steps.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data in a training run.")]
StudentFolder = Annotated[Path | None, typer.Option(help="Folder of the student; default: in the run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of a search, e.g. runs/quickstart.")]


@app.command()
def search(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="YAML file, or an embedded recipe such as quickstart.")
    ] = None,
    teacher: Teacher = None,
    data: Data = None,
    device: Devices = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Hard limit on the student's median latency.")] = None,
    trials: Annotated[int | None, typer.Option(help="Students to train.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else a local Ray.")] = None,
    sets: Sets = None,
) -> None:
    """Search for students of a teacher on a device.

    Prepares the teacher, profiles the device, trains students, finalizes the best. Ends with a report and a folder
    for each student; can be stopped at any time and continued with `nas resume`.

    **Examples**

        nas search quickstart

        nas search recipe.yaml --trials 40 --set search.strategy=tpe

        nas search --teacher ./my-model --data sst2.csv --device cpu --max-latency-ms 1.0 --trials 40

        nas search recipe.yaml --device server --device phone
    """
    names = device or []
    overrides = {
        "teacher.model": teacher,
        "data.source": data,
        "device.name": names[0] if len(names) == 1 else None,
        "devices": names if len(names) > 1 else None,
        "search.trials": trials,
        "cluster.address": address,
    }
    run_command("search", recipe, overrides, sets or [], max_latency_ms, output)


@app.command()
def resume(
    run: Run,
    trials: Annotated[int | None, typer.Option(help="A larger budget than the recipe's.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to continue on.")] = None,
) -> None:
    """Continue a search exactly where it stopped, after Ctrl-C, a crash or a power cut.

    Finished trials are kept and not repeated; what was running is trained again.

    **Example**

        nas resume runs/quickstart
    """
    run_command("resume", run, trials, address)


@app.command()
def report(
    run: Run,
    show: Annotated[bool, typer.Option(help="Print the table; --no-show only writes the HTML file.")] = True,
) -> None:
    """Print the front as a table and write report.html with the plot.

    **Example**

        nas report runs/quickstart
    """
    run_command("report", run, show)


@app.command()
def export(
    run: Run,
    student: Annotated[str, typer.Option(help="Name of a student, or best.")] = "best",
    device: Annotated[str | None, typer.Option(help="Device of a search for several; default the first.")] = None,
    output: Annotated[Path | None, typer.Option(help="Target folder; default ./STUDENT.")] = None,
) -> None:
    """Copy a student into a folder that can be shipped: HF files, ONNX, tokenizer, manifest, model card.

    **Examples**

        nas export runs/quickstart --student best --output my-student

        nas export runs/both --student best --device phone
    """
    run_command("export", run, student, output, device)


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="Name of an embedded recipe.")] = "quickstart",
) -> None:
    """Print an embedded recipe, to begin one of your own.

    **Example**

        nas recipe quickstart > recipe.yaml
    """
    run_command("recipe", name)


@app.command(cls=WithCompressors)
def compress(
    recipe: LabRecipe = None,
    teacher: Teacher = None,
    data: Data = None,
    device: Device = None,
    step: Steps = None,
    steps: StepFile = None,
    epochs: Epochs = None,
    output: StudentFolder = None,
    as_json: Json = False,
    sets: Sets = None,
) -> None:
    """Compress a teacher by methods of your choice, one after the other, and measure what it gives.

    Neighbouring methods of a training run act together. What an earlier call has computed is not computed again.
    Without RECIPE, teacher and data it takes those of the quickstart, whose teacher is fine-tuned first, in a minute or
    two, and kept. What cuts structure comes before what zeroes weights, and both before what lowers bits.

    **Examples**

        nas compress --step int8

        nas compress --step unit_pruning:ffn=0.5 --step distillation --step int8

        nas compress --teacher ./my-model --data sst2.csv --step int8
    """
    overrides = {
        "teacher.model": teacher,
        "data.source": data,
        "device.name": device,
        "finalize.train.epochs": epochs,
    }
    run_command("compress", recipe, (overrides, sets or []), (step or [], steps), output, as_json)


@app.command()
def merge(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe of each task: teacher and data.")],
    step: Steps = None,
    steps: StepFile = None,
    epochs: Epochs = None,
    alone: Annotated[bool, typer.Option(help="Also make a student of each teacher alone, to compare with.")] = True,
    output: StudentFolder = None,
    as_json: Json = False,
    sets: Sets = None,
) -> None:
    """Make one student of several teachers: one trunk, one file, an output for each task.

    It is made by the methods of `nas compress`, from all teachers' data at once. The teachers must come from the same
    base model. Name, teacher and data of each recipe count, and device and training of the first.

    **Example**

        nas merge sentiment.yaml topic.yaml --step layer_pruning:keep=3 --step distillation --step int8
    """
    settings = ({"finalize.train.epochs": epochs}, sets or [])
    run_command("merge", recipes, settings, (step or [], steps), alone, output, as_json)


@app.command()
def compressors(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Method to show in detail.")] = None,
) -> None:
    """List the methods that make a model smaller, or show the knobs of one: default, choices of a search, meaning.

    **Examples**

        nas compressors

        nas compressors int8
    """
    run_command("compressors", name)


@app.command(cls=WithMethods)
def compare(
    recipe: LabRecipe = None,
    teacher: Teacher = None,
    data: Data = None,
    device: Device = None,
    methods: Annotated[str | None, typer.Option(metavar="NAME,...", help="Methods, see below; default all.")] = None,
    seeds: Annotated[int, typer.Option(help="Times each method is tried.")] = 3,
    epochs: Epochs = None,
    run: Annotated[Path | None, typer.Option(help="Finished search whose students are the joint rows.")] = None,
    search: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Search for the joint rows; default as long as the others.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder, continued if it exists.")] = None,
    sets: Sets = None,
) -> None:
    """Compare methods of compression on your teacher, data and device: one yardstick, the same budget for all.

    Ends with tables, markdown, JSON and an HTML report; can be stopped at any time, the same command goes on.
    Without RECIPE, teacher and data it takes those of the quickstart and a small budget.

    **Examples**

        nas compare --methods teacher,ptq_dynamic,magnitude_50

        nas compare --teacher ./my-model --data sst2.csv --epochs 1

        nas compare recipe.yaml --run runs/my-search
    """
    overrides = {
        "teacher.model": teacher,
        "data.source": data,
        "device.name": device,
        "finalize.train.epochs": epochs,
    }
    run_command("compare", recipe, (overrides, sets or []), (methods, seeds), (run, search), output)


@app.command()
def strategies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Strategy to show in detail.")] = None,
) -> None:
    """List the strategies a space can be searched with, or show the options of one: default, range, meaning.

    **Examples**

        nas strategies

        nas strategies evolution
    """
    run_command("strategies", name)


app.add_typer(cli_devices.app, name="devices")
app.command()(cli_devices.measure)


@app.command()
def doctor(
    address: Annotated[str | None, typer.Option(help="Ray cluster to check; default RAY_ADDRESS, else local.")] = None,
) -> None:
    """Say what works here and what does not: versions, cores, cluster, device, tracker; and what to do.

    **Example**

        nas doctor
    """
    run_command("doctor", address)


def main() -> None:
    """Entry point of the ``nas`` command."""
    app()
