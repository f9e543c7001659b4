"""`nas devices`: the user's devices as files, on the command line, and in recipes."""

import importlib.metadata
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launch.cli import app
from launch.device_files import known_devices, merged, read_device, with_devices
from launch.recipes import load_recipe, save_recipe
from nas.devices.runtimes import LITERT
from nas.recipe import DeviceSettings, Recipe
from search_spaces.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's devices, none at first."""
    monkeypatch.setenv("PRENTICE_DEVICES", str(tmp_path / "devices"))
    return tmp_path / "devices"


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_device_is_added_shown_listed_used_and_removed(folder: Path, tmp_path: Path) -> None:
    words = [
        "--threads",
        "2",
        "--batch",
        "4",
        "--mix",
        "16:3,64:1",
        "--affinity",
        "1,0",
        "--option",
        "compile=false",
        "--note",
        "silent",
    ]
    code, output = invoke("devices", "add", "laptop", "--backend", "torch", *words)
    assert (code, [path.name for path in folder.iterdir()]) == (0, ["laptop.yaml"]), output
    shown = yaml.safe_load(invoke("devices", "show", "laptop")[1])
    assert shown == yaml.safe_load((folder / "laptop.yaml").read_text())
    assert (shown["backend"], shown["options"], shown["affinity"]) == ("torch", {"compile": False}, [1, 0])
    assert known_devices() == ["cpu", "torch", "openvino", "laptop"]

    recipe = load_recipe("quickstart", {"device.name": "laptop"}, ["device.threads=1"])
    assert (recipe.device.backend, recipe.device.mix, recipe.device.note) == ("torch", {16: 3.0, 64: 1.0}, "silent")
    save_recipe(recipe, tmp_path / "r.yaml")
    assert invoke("devices", "remove", "laptop")[0] == 0
    assert load_recipe(str(tmp_path / "r.yaml"), {}, []) == recipe  # it needs no file any more
    assert "laptop" not in known_devices()


def test_a_recipe_may_be_brief(folder: Path, tmp_path: Path) -> None:
    invoke("devices", "add", "pi5", "--backend", "onnxruntime", "--tokens", "20")
    (tmp_path / "r.yaml").write_text("device: pi5\n")
    assert load_recipe(str(tmp_path / "r.yaml"), {}, []).device.tokens == 20
    assert load_recipe(None, {"device.name": "torch"}, []).device.backend == "torch"


def test_what_a_recipe_says_wins_and_a_mix_and_a_length_replace_each_other() -> None:
    known = DeviceSettings(name="a", backend="torch", mix={8: 1.0}, options={"compile": False, "device": "cpu"})
    found = merged(known.model_dump(exclude_unset=True), {"tokens": 12, "options": {"compile": True}})
    assert (found.tokens, found.mix, found.options) == (12, None, {"compile": True, "device": "cpu"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("devices add cpu --backend torch", "device 'cpu': is built in"),
        ("devices add ../x --backend torch", "cannot name a file"),
        ("devices add x --backend tf", "device backend: 'tf' is unknown"),
        ("devices add x --backend torch --option compil=true", "Did you mean 'compile'"),
        ("devices add x --backend torch --option compile", "not an assignment"),
        ("devices add x --backend torch --threads 0", "device.threads: 0: input should be greater"),
        ("devices add x --backend torch --mix 16", "--mix '16': no lengths with weights"),
        ("devices add x --backend torch --mix 16:1 --tokens 8", "give one of them"),
        ("devices add x --backend torch --affinity a", "--affinity 'a': no processors"),
        ("devices show nix", "device: 'nix' is unknown; known: cpu, torch, openvino."),
        ("devices remove nix", "nas devices add nix"),
        ("devices remove cpu", "is built in"),
        ("measure model.onnx --device nix", "device: 'nix' is unknown"),
        ("search --device cpuu", "Did you mean 'cpu'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_nothing_is_written(
    folder: Path, arguments: str, message: str
) -> None:
    code, output = invoke(*arguments.split())
    assert code == 2, output
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert not folder.exists()


def test_a_device_is_replaced_only_by_force() -> None:
    invoke("devices", "add", "x", "--backend", "torch")
    code, output = invoke("devices", "add", "x", "--backend", "onnxruntime")
    assert (code, "replace it with --force" in output) == (2, True)
    assert invoke("devices", "add", "x", "--backend", "onnxruntime", "--force")[0] == 0
    assert read_device("x").backend == "onnxruntime"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thread: 2\n", r"x\.yaml:1: thread: 'thread' is unknown; known: name, .*Did you mean 'threads'"),
        ("backend: torch\nthreads: many\n", r"x\.yaml:2: threads: 'many'"),
        ("name: y\n", "holds 'y'; the settings of device 'x' are expected"),
        ("- a\n", "holds a list"),
        ("a:\n\t- b\n", r"x\.yaml:2: not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(folder: Path, text: str, message: str) -> None:
    folder.mkdir()
    (folder / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_device("x")


def test_a_device_with_more_threads_than_there_are_here_may_be_another_machines() -> None:
    code, output = invoke("devices", "add", "big", "--backend", "onnxruntime", "--threads", "4096")
    assert code == 0
    assert "warning: not here: device.threads: 4096" in output


def test_the_list_tries_every_device_and_says_what_is_wrong(folder: Path) -> None:
    invoke("devices", "add", "big", "--backend", "onnxruntime", "--threads", "4096")
    (folder / "bad.yaml").write_text("backend: tf\n")
    code, output = invoke("devices")
    assert code == 0
    for words in ("cpu", "a tiny encoder takes", "built in", "4096 is more than", "'tf' is unknown"):
        assert words in " ".join(output.split())


def test_a_recipe_that_describes_its_device_needs_no_file() -> None:
    recipe = Recipe(device=DeviceSettings(name="board-7", backend="onnxruntime", threads=2))
    assert with_devices(recipe) == recipe


def test_the_environment_of_a_runtime_is_two_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRENTICE_RUNTIMES", str(tmp_path / "my runtimes"))
    code, output = invoke("devices", "runtime", "litert")
    make, install = (shlex.split(line) for line in output.splitlines())
    assert (code, make[1:]) == (0, ["-m", "venv", str(tmp_path / "my runtimes" / "litert")])
    assert install[0] == str(LITERT.python)
    assert any(name.startswith("litert-torch") for name in install)
    for name in ("torch", "safetensors"):
        (pin,) = (word for word in install if word.startswith(f"{name}=="))
        assert importlib.metadata.version(name).split("+")[0] == pin.split("==")[1]
    code, output = invoke("devices", "runtime", "litter")
    assert (code, "runtime: 'litter' is unknown" in output, "Did you mean 'litert'?" in output) == (2, True, True)
