from pathlib import Path

import pytest
import yaml

from launch.recipes import embedded_names, load_recipe, save_recipe
from nas.recipe import Recipe
from search_spaces.errors import ConfigError


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", embedded_names())
def test_every_embedded_recipe_is_valid(name: str) -> None:
    assert load_recipe(name, {}, []).name


def test_a_saved_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", {"search.trials": 5}, ["space.mode=per_layer"])
    save_recipe(recipe, tmp_path / "r.yaml")
    assert load_recipe(str(tmp_path / "r.yaml"), {}, []) == recipe


def test_the_command_line_wins_over_the_file_and_none_is_ignored() -> None:
    recipe = load_recipe("quickstart", {"search.trials": 5, "data.source": None}, ["search.seed=7"])
    assert (recipe.search.trials, recipe.search.seed, recipe.data.source) == (5, 7, "docstrings")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "search:\n  trails: 4\n",
            r"recipe.yaml:2: search.trails: 'trails' is unknown; known: .*Did you mean 'trials'",
        ),
        ("search: {trials: 0}\n", r"recipe.yaml:1: search.trials: 0: .*greater than or equal to 1"),
        ("search: {trials: many}\n", r"search.trials: 'many'"),
        ("nmae: x\n", r"recipe.yaml:1: nmae: 'nmae' is unknown; .*Did you mean 'name'"),
        ("name: ../../etc\n", r"name: '../../etc'"),
        ("search:\n\ttrials: 4\n", r"recipe.yaml:2: not valid YAML"),
        ("- a\n- b\n", r"holds a list"),
        ("a: &a [1]\nb: [" + ", ".join(["*a"] * 60) + "]\n", r"60 YAML aliases"),
        ("device: {threads: -1}\n", r"device.threads: -1"),
        ("data: {text: []}\n", r"data.text"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(written(tmp_path, text), {}, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "devices: [cpu, torch, cpu]\n",
            r"recipe.yaml:1: devices: .*: 'cpu' stands there twice; give each device a name",
        ),
        (
            "device: cpu\ndevices: [cpu, torch]\n",
            "recipe: device and a list of 2 devices are given; give one of the two",
        ),
        ("devices: [cpu, phoen]\n", "'phoen' is unknown; known: cpu, torch, openvino. .*nas devices add phoen"),
        ("devices: cpu\n", "recipe.yaml:1: devices: 'cpu': input should be a valid tuple"),
        ("devices:\n- cpu\n- name: b\n  thread: 2\n", r"recipe.yaml:4: devices\.1\.thread: .*Did you mean 'threads'"),
    ],
)
def test_a_mistake_in_a_list_of_devices_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(written(tmp_path, text), {}, [])
    assert "\n" not in str(caught.value)


def test_several_devices_are_kept_with_all_their_settings(tmp_path: Path) -> None:
    path = written(tmp_path, "devices:\n- torch\n- {name: board, backend: onnxruntime, threads: 2}\n")
    recipe = load_recipe(path, {}, [])
    assert {name: (d.backend, d.threads) for name, d in recipe.targets.items()} == {
        "torch": ("torch", 1),
        "board": ("onnxruntime", 2),
    }
    assert recipe.device == recipe.devices[0]
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(str(tmp_path / "saved.yaml"), {}, []) == recipe
    assert "device" not in yaml.safe_load((tmp_path / "saved.yaml").read_text())


def test_devices_of_the_command_line_replace_those_of_the_recipe(tmp_path: Path) -> None:
    one, several = {"device.name": "torch"}, {"devices": ["torch", "cpu"]}
    for text in ("devices: [cpu, openvino]\n", "device: {name: cpu, batch: 4}\n"):
        path = written(tmp_path, text)
        assert list(load_recipe(path, several, []).targets) == ["torch", "cpu"]
        assert list(load_recipe(path, one, []).targets) == [""]
        assert load_recipe(path, one, []).device.backend == "torch"
    assert load_recipe(path, several, []).device.batch == 1
    assert load_recipe(path, one, []).device.batch == 4


def test_a_list_of_one_device_is_that_device(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "devices: [torch]\n"), {}, []) == load_recipe(
        None, {"device.name": "torch"}, []
    )


def test_two_mistakes_give_two_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(tmp_path, "search: {trials: 0, seed: -1}\n"), {}, [])
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_recipes_and_bad_assignments_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        load_recipe("quickstrat", {}, [])
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe("missing.yaml", {}, [])
    with pytest.raises(ConfigError, match="write key=value"):
        load_recipe(None, {}, ["trials"])


def test_the_defaults_are_a_valid_recipe() -> None:
    assert load_recipe(None, {}, []) == Recipe()


@pytest.mark.parametrize(
    ("fidelity", "message"),
    [
        ("rungs: [0.3, 0.1, 1.0]", r"rungs: \[0\.3, 0\.1, 1\.0\]: 0\.3, 0\.1, 1 do not lead up to 1"),
        ("rungs: [0.1, 0.1, 1.0]", "0, 0.3, 1"),
        ("rungs: [0.0, 0.5]", "0, 0.5 do not lead up"),
        ("rungs: [-0.5, 1.0]", "-0.5, 1 do not lead up"),
        ("rungs: [1.0]", "at least 2"),
        ("eta: 1.0", "greater than 1"),
        ("eta: 0.5", "greater than 1"),
        ("buckets: 0", "greater than or equal to 1"),
        ("etta: 3", "Did you mean 'eta'"),
    ],
)
def test_bad_rungs_are_one_line_with_file_and_place(tmp_path: Path, fidelity: str, message: str) -> None:
    path = written(tmp_path, f"search:\n  fidelity:\n    {fidelity}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path, {}, [])
    assert str(caught.value).startswith(f"{path}:3: search.fidelity.")
    assert len(str(caught.value).splitlines()) == 1
