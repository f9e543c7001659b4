"""How a space is searched: our strategies and Optuna's samplers, by name, all of them `optuna.samplers.BaseSampler`.

A strategy keeps no state that the study does not hold, so every one of them goes on after a resume as if never
stopped.
"""

from nas.strategies.names import OPTUNA_SAMPLERS, STRATEGIES, check_search, check_strategy, make_sampler

__all__ = ["OPTUNA_SAMPLERS", "STRATEGIES", "check_search", "check_strategy", "make_sampler"]
