"""The errors a user can meet, one line each: ``<where>: <what is wrong>; <what is allowed>. <What to do.>``.

Every class has a built-in second parent, so callers may catch either. The command line prints the message and
exits with ``exit_code``; anything that is not a `NasError` is a bug of ours and keeps its traceback.
"""


class NasError(Exception):
    """Base of every error that is the user's to fix, not ours."""

    exit_code = 1


class ConfigError(NasError, ValueError):
    """A recipe, an option, a name or a data file is wrong; nothing was started."""

    exit_code = 2


class DataError(ConfigError):
    """The data cannot be used: a missing column, an empty split, a label out of range."""


class ShapeError(NasError, ValueError):
    """An array has the wrong shape or values for a function of the library."""


class StateError(NasError, RuntimeError):
    """The operation does not fit the present state: a locked run folder, a finished search, a damaged file."""

    exit_code = 2


class InfeasibleError(NasError, RuntimeError):
    """No student can meet the hard constraints; the message says what the best possible one reaches."""

    exit_code = 3


class DivergedError(NasError, ArithmeticError):
    """Training produced NaN or infinity; the trial is worthless."""


class DeviceError(NasError, RuntimeError):
    """A device is missing, too noisy to measure, or answers nonsense."""

    exit_code = 2


class UnansweredError(DeviceError):
    """A device gave no answer that can be true, however often it was asked; another time it may."""


class MissingDependencyError(NasError, ImportError):
    """An optional package is not installed; the message holds the install command."""

    exit_code = 2
