"""From a strategy's name, seed and options in a recipe to a sampler."""

import inspect
from collections.abc import Mapping
from typing import Any

from optuna.samplers import BaseSampler

from nas.strategies.resumable import ResumableSampler
from search_spaces.errors import ConfigError
from search_spaces.registry import Table, unknown_name
from search_spaces.space import Space

STRATEGIES = Table(
    "strategy",
    {
        "evolution": "nas.strategies.evolution:AgingEvolution",
        "ppo": "nas.strategies.ppo:Ppo",
        "random": "nas.strategies.random:RandomSearch",
        "reinforce": "nas.strategies.reinforce:Reinforce",
    },
)
OPTUNA_SAMPLERS = Table(
    "strategy",
    {
        "tpe": "optuna.samplers:TPESampler",
        "nsga2": "optuna.samplers:NSGAIISampler",
        "nsga3": "optuna.samplers:NSGAIIISampler",
        "gp": "optuna.samplers:GPSampler",
        "qmc": "optuna.samplers:QMCSampler",
    },
)
GIVEN = {"self", "seed"}  # arguments that are not options


def check_strategy(name: str) -> None:
    """Check that a strategy exists, without importing it.

    Raises:
        ConfigError: It lists all names and the nearest one.
    """
    if name not in STRATEGIES and name not in OPTUNA_SAMPLERS:
        raise unknown_name("strategy", name, [*STRATEGIES, *OPTUNA_SAMPLERS])


def make_sampler(name: str, space: Space, seed: int, options: Mapping[str, Any] | None = None) -> BaseSampler:
    """Return the strategy of a recipe.

    Args:
        name: Row of ``STRATEGIES`` or ``OPTUNA_SAMPLERS``.
        space: What is searched.
        seed: Of the whole search; every draw is derived from it and the trial's number.
        options: Keyword arguments of the strategy's class.

    Raises:
        ConfigError: The name or an option is unknown, or the value of an option is not allowed.
    """
    check_strategy(name)
    chosen = dict(options or {})
    if name in STRATEGIES:
        strategy: BaseSampler = STRATEGIES.load(name)(space, seed, **chosen)
        return strategy
    cls = OPTUNA_SAMPLERS.load(name)
    known = [option for option in inspect.signature(cls.__init__).parameters if option not in GIVEN]
    for option in chosen:
        if option not in known:
            raise unknown_name(f"search.options.{option}: option of {name}", option, known)
    try:
        return ResumableSampler(cls, seed, chosen)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"search.options: {chosen} is not allowed for {name!r} ({error}).") from None
