"""Every command of the README is run, or checked as far as it can be without a network or a cluster."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from launch.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def commands(program: str) -> list[str]:
    """Return the command lines of the README's code blocks that start with a program's name."""
    blocks = re.findall(r"^```\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.split(r"\s{2,}#| > ", line)[0].strip() for line in lines if line.startswith(program + " ")]


@pytest.mark.parametrize("line", commands("nas"))
def test_every_nas_command_of_the_readme_is_accepted(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    command.make_context(name, arguments)


def test_the_readme_shows_every_command() -> None:
    shown = {shlex.split(line)[1] for line in commands("nas")}
    assert shown == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_recipe_command_prints_what_the_readme_says() -> None:
    result = CliRunner().invoke(app, shlex.split(commands("nas recipe")[0])[1:])
    assert result.exit_code == 0
    assert "builtin:minilm" in result.output


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in commands("make"):
        assert re.search(rf"^{line.split()[1]}:", makefile, flags=re.MULTILINE), line


def test_every_file_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:nas|compressors|search_spaces|launch|benchmarks)/[\w/.]+\.\w+)`", README):
        assert (ROOT / name).exists(), name


def test_every_python_file_of_the_benchmarks_in_the_readme_exists() -> None:
    for name in re.findall(r"benchmarks/[\w.]+", README):
        assert (ROOT / name).exists(), name
