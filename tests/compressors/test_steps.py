import json

import pytest

from compressors import COMPRESSORS
from compressors.steps import Step, blocks, check_order, check_standalone, prefix_key
from search_spaces.errors import ConfigError
from search_spaces.seeding import rng_for
from tests.compressors.methods import methods

__all__ = ["methods"]
pytestmark = pytest.mark.usefixtures("methods")


def steps(*texts: str) -> list[Step]:
    return [Step.parse(text) for text in texts]


@pytest.mark.parametrize("name", list(COMPRESSORS))
def test_every_point_of_every_method_survives_text_and_json(name: str) -> None:
    cls, rng = COMPRESSORS.load(name), rng_for(0, name)
    for _ in range(10):
        step = Step(name, cls.space().sample(rng))
        assert Step.parse(str(step)) == step
        assert Step.from_json(json.loads(json.dumps(step.to_json()))) == step


def test_knobs_are_read_as_what_they_are() -> None:
    step = Step.parse("weight_pruning:sparsity=0.5,schedule=oneshot")
    assert step.knobs == {"sparsity": 0.5, "schedule": "oneshot"}
    assert Step.parse("int8:per_channel=False").knobs == {"per_channel": False}
    assert Step.parse("distillation:temperature=3").bind().temperature == 3


def test_a_file_may_name_a_step_briefly() -> None:
    wanted = Step("distillation", {"alpha": 0.5})
    for written in ("distillation:alpha=0.5", {"distillation": {"alpha": 0.5}}, wanted.to_json()):
        assert Step.from_json(written) == wanted
    assert Step.from_json({"int8": None}) == Step("int8")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int9", "'int9' is unknown; known: .*Did you mean 'int8'"),
        ("int8:bits=4", "'bits' is unknown; known: enabled, per_channel"),
        ("int8:enabled", "'enabled' is no knob; write name:knob=value"),
        ("int8:enabled=true,enabled=true", "each once"),
        ("int8:enabled=3", "int8.enabled: 3 is no value for it; write true or false"),
        ("distillation:alpha=much", "distillation.alpha: 'much' is no value for it; write a number"),
        ("weight_pruning:sparsity=1.0", "weight_pruning.sparsity: 1.0 is out of range"),
        ("weight_pruning:sparsity=nan", "weight_pruning.sparsity: nan is out of range"),
    ],
)
def test_a_bad_step_is_one_line_with_its_value(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Step.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [3, None, {}, {"a": {}, "b": {}}, {"name": 3}, {"int8": 5}])
def test_what_is_no_step_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="is no step"):
        Step.from_json(value)


@pytest.mark.parametrize(
    "order",
    [
        ["int8"],
        ["shallow", "distillation", "int8"],
        ["distillation", "shallow", "distillation", "weight_pruning", "int8"],
        ["shallow", "weight_pruning", "distillation", "rounding", "int8"],
        ["shallow", "distillation", "shallow", "distillation"],
    ],
)
def test_good_orders_pass(order: list[str]) -> None:
    check_order(steps(*order))
    check_standalone(steps(*order))


@pytest.mark.parametrize(
    ("order", "later", "earlier"),
    [
        (["int8", "shallow"], "shallow", "int8"),
        (["int8", "distillation"], "distillation", "int8"),
        (["int8", "int8"], "int8", "int8"),
        (["rounding", "distillation"], "distillation", "rounding"),
        (["rounding", "shallow"], "shallow", "rounding"),
        (["weight_pruning", "shallow"], "shallow", "weight_pruning"),
        (["rounding", "weight_pruning"], "weight_pruning", "rounding"),
        (["weight_pruning", "distillation", "shallow"], "shallow", "weight_pruning"),
        (["distillation", "weight_pruning", "distillation"], "distillation", "distillation"),
        (["weight_pruning", "distillation", "weight_pruning"], "weight_pruning", "weight_pruning"),
    ],
)
def test_an_impossible_order_names_both_steps(order: list[str], later: str, earlier: str) -> None:
    with pytest.raises(ConfigError, match=f"'{later}' cannot follow '{earlier}'"):
        check_order(steps(*order))


@pytest.mark.parametrize("earlier", ["low_rank", "low_rank:which=*up", "layer_sharing:group=3", "low_rank:which=all"])
@pytest.mark.parametrize("later", ["structured_pruning:schedule=cubic", "unit_pruning:ffn=0.5", "layer_pruning:keep=2"])
def test_what_cuts_layers_comes_before_what_factors_or_shares_them(earlier: str, later: str) -> None:
    names = [text.split(":")[0] for text in (earlier, later)]
    words = rf"'{names[1]}' cannot follow '{names[0]}': it cuts layers.*put it before '{names[0]}'\.$"
    with pytest.raises(ConfigError, match=words):
        check_order(steps(earlier, "distillation", later))
    check_order(steps(later, "distillation", earlier))


@pytest.mark.parametrize(
    "order",
    [
        ["low_rank", "structured_pruning"],
        ["low_rank:share=1", "structured_pruning:schedule=cubic"],
        ["low_rank:which=embeddings+head.*", "structured_pruning:schedule=cubic"],
        ["layer_sharing:group=1", "structured_pruning:schedule=cubic"],
        ["layer_sharing", "unit_pruning", "layer_pruning"],
    ],
)
def test_what_cuts_or_ties_nothing_may_stand_anywhere(order: list[str]) -> None:
    check_order(steps(*order))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 were given"):
        check_order([])


def test_what_only_a_search_can_aim_is_refused_by_hand_with_what_to_use() -> None:
    with pytest.raises(ConfigError, match=r"'structured_pruning' needs a target.*use unit_pruning"):
        check_standalone(steps("distillation", "structured_pruning"))


def test_neighbours_of_a_training_run_are_one_block() -> None:
    found = blocks(steps("shallow", "distillation", "weight_pruning", "shallow", "shallow", "distillation", "int8"))
    names = [[step.name for step in block] for block in found]
    assert names == [
        ["shallow"],
        ["distillation", "weight_pruning"],
        ["shallow"],
        ["shallow"],
        ["distillation"],
        ["int8"],
    ]


def test_a_key_tells_what_differs_and_nothing_else() -> None:
    key = prefix_key(steps("shallow", "distillation"), {"seed": 0})
    assert key == prefix_key(steps("shallow:layers=1", "distillation:alpha=0.1"), {"seed": 0})  # the defaults
    others = [
        prefix_key(steps("shallow"), {"seed": 0}),
        prefix_key(steps("distillation", "shallow"), {"seed": 0}),
        prefix_key(steps("shallow", "distillation:alpha=0.5"), {"seed": 0}),
        prefix_key(steps("shallow", "distillation"), {"seed": 1}),
    ]
    assert len({key, *others}) == 5
