from pathlib import Path

import pytest

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
