"""From a strategy's name, seed and options in a recipe to a sampler."""

import inspect
from collections.abc import Mapping
from typing import Any

from optuna.samplers import BaseSampler

from nas.strategies.base import Strategy
from nas.strategies.resumable import ResumableSampler
from search_spaces.errors import ConfigError
from search_spaces.registry import Table, unknown_name
from search_spaces.space import Space

STRATEGIES = Table(
    "strategy",
    {
        "evolution": "nas.strategies.evolution:AgingEvolution",
        "local": "nas.strategies.local:LocalSearch",
        "ppo": "nas.strategies.ppo:Ppo",
        "predictor": "nas.strategies.predictor:PredictorSearch",
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
OPTUNA_SUITS = {  # what Optuna's samplers are good for, one line each
    "tpe": "tens to hundreds of trials; models each parameter's good and bad values (Optuna)",
    "nsga2": "hundreds of cheap trials in generations, two or three objectives (Optuna)",
    "nsga3": "hundreds of cheap trials in generations, four objectives and more (Optuna)",
    "gp": "up to about a hundred expensive trials; a Gaussian process, seconds an ask (Optuna; needs torch)",
    "qmc": "an even cover of the space, a better baseline than random for numbers (Optuna)",
}
POPULATIONS = ("population", "population_size")  # options that count trials
GIVEN = {"self", "seed"}  # arguments that are not options


def check_strategy(name: str) -> None:
    """Check that a strategy exists, without importing it.

    Raises:
        ConfigError: It lists all names and the nearest one.
    """
    if name not in STRATEGIES and name not in OPTUNA_SAMPLERS:
        raise unknown_name("strategy", name, [*STRATEGIES, *OPTUNA_SAMPLERS])


def check_search(name: str, options: Mapping[str, Any], n_objectives: int, n_trials: int) -> None:
    """Check that a strategy can do what a recipe asks of it.

    Raises:
        ConfigError: As `make_sampler`, or there are too many objectives, or a population that the trials cannot fill.
    """
    sampler = make_sampler(name, None, 0, options)
    most = sampler.max_objectives if isinstance(sampler, Strategy) else None
    if most is not None and n_objectives > most:
        raise ConfigError(
            f"search.strategy: {name!r} cannot search for {n_objectives} objectives; at most {most} is allowed. "
            "Choose another strategy, or make the others constraints."
        )
    for option in POPULATIONS:
        if option in options and options[option] > n_trials:
            raise ConfigError(
                f"search.options.{option}: {options[option]} is more than the search has trials; at most "
                f"search.trials = {n_trials} is allowed."
            )


def make_sampler(name: str, space: Space | None, seed: int, options: Mapping[str, Any] | None = None) -> BaseSampler:
    """Return the strategy of a recipe.

    Args:
        name: Row of ``STRATEGIES`` or ``OPTUNA_SAMPLERS``.
        space: What is searched; None: what the finished trials of a study have in common.
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
