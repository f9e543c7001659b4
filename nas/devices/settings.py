"""From settings to a device: names, options and thread counts checked before anything is started.

Knows settings and what a backend says of itself; not runtimes, not the files that users keep their devices in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from compressors import COMPRESSORS
from nas.devices import BACKENDS
from nas.devices.base import FILES, Device, Format, Workload
from nas.recipe import DeviceSettings
from search_spaces.errors import ConfigError, MissingDependencyError
from search_spaces.registry import unknown_name

BUILT_IN = {"cpu": "onnxruntime", "torch": "torch", "openvino": "openvino"}
"""Devices that need no settings, with their backends."""
LEGIBLE: tuple[Format, ...] = ("onnxruntime", "onnx", "torch")
"""Formats whose weights can be looked at one by one."""


def resolved(settings: DeviceSettings) -> DeviceSettings:
    """Return settings that name their backend: a name alone means the built-in device.

    Raises:
        ConfigError: There is no built-in device of this name.
    """
    if "backend" in settings.model_fields_set:
        return settings
    if settings.name not in BUILT_IN:
        raise unknown_device(settings.name, list(BUILT_IN))
    told = settings.model_dump(exclude_unset=True)
    return DeviceSettings(**{**told, "name": settings.name, "backend": BUILT_IN[settings.name]})


def unknown_device(name: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a name that no device has."""
    error = unknown_name("device", name, list(known))
    return ConfigError(f"{error} Describe it with: nas devices add {name} --backend NAME")


def open_device(settings: DeviceSettings) -> Device:
    """Return the device of resolved settings; nothing is started.

    Raises:
        ConfigError: An unknown backend, or an option that it does not take.
    """
    device: Device = BACKENDS.load(settings.backend)(settings)
    return device


def check_device(settings: DeviceSettings, is_here: bool) -> None:
    """Refuse settings that cannot work, before anything slow begins.

    Args:
        settings: Resolved.
        is_here: This machine measures; one of a cluster may have other packages and more processors.

    Raises:
        ConfigError, DeviceError, MissingDependencyError: As `open_device` and `Device.check`.
    """
    device = open_device(settings)
    if is_here:
        device.check()


def check_fits(settings: DeviceSettings, compressors: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse compressors that rewrite other artefacts than the device's, or need a package that is not installed.

    Args:
        settings: Resolved.
        compressors: Names with the knobs that are fixed; one that is switched off does not count.

    Raises:
        ConfigError: One line with both, and what to leave out.
        MissingDependencyError: One line with what to install.
    """
    made = open_device(settings).format
    for name in [name for name, knobs in compressors.items() if knobs.get("enabled", True) is not False]:
        row = COMPRESSORS.load(name)
        formats = getattr(row, "formats", (made,))
        if made not in formats:
            raise ConfigError(
                f"compress.{name}: rewrites {' and '.join(formats)} files, device {settings.name!r} runs {made} files; "
                f"leave {name} out, or choose a device of another backend. In a recipe: {name}: {{enabled: false}}"
            )
        if hasattr(row, "why_not") and (why := row.why_not()) is not None:
            raise MissingDependencyError(f"compress.{name}: {why}")


def check_legible(settings: DeviceSettings) -> None:
    """Refuse a device whose files are closed, where the weights inside them are to be counted.

    Raises:
        ConfigError: One line with what to do.
    """
    device = open_device(resolved(settings))
    if device.format not in LEGIBLE:
        raise ConfigError(
            f"device {settings.name!r}: runs {FILES[device.format]}, whose weights cannot be looked at; compress and "
            f"compare on a device that runs one of {', '.join(LEGIBLE)}, and measure the result here with: nas measure"
        )


def check_lengths(settings: DeviceSettings, n_positions: int, section: str = "device") -> None:
    """Refuse calls with longer texts than the teacher takes.

    Raises:
        ConfigError: One line with the length and the teacher's positions.
    """
    longest = max([settings.tokens or 0, *(settings.mix or ())])
    if longest > n_positions:
        where = f"{section}.{'mix' if settings.mix else 'tokens'}"
        raise ConfigError(f"{where}: {longest} is more than the teacher's {n_positions} positions; choose less.")


def workload_of(settings: DeviceSettings, tokens: int) -> Workload:
    """Return what one call gets in production; ``tokens`` where the settings name no mix of lengths."""
    total = sum((settings.mix or {}).values())
    mix = tuple(sorted((length, share / total) for length, share in (settings.mix or {}).items()))
    return Workload(settings.batch, tokens, mix)


def checked_options(settings: DeviceSettings, model: type[BaseModel]) -> BaseModel:
    """Return the options of a backend.

    Raises:
        ConfigError: One line: an unknown option with the known ones, or a value that is not allowed.
    """
    try:
        return model.model_validate(settings.options)
    except ValidationError as error:
        known = [field.alias or name for name, field in model.model_fields.items()]
        raise ConfigError(_explained(settings.backend, error.errors()[0], known)) from None


def _explained(backend: str, fault: Any, known: list[str]) -> str:
    """Return what is wrong with one option of a backend."""
    where = ".".join(map(str, ("device.options", *fault["loc"])))
    if fault["type"] == "extra_forbidden":
        return str(unknown_name(where, str(fault["loc"][-1]), known or ["none"]))
    if fault["type"] == "missing":
        return f"{where}: missing; backend {backend!r} needs it."
    message = fault["msg"].removeprefix("Value error, ")  # one of our own
    if not fault["loc"]:  # of several options together
        return f"{where}.{message}."
    return f"{where}: {fault['input']!r}: {message[0].lower()}{message[1:]}."
