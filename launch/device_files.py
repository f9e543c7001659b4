"""The user's own devices: small YAML files in one folder, which recipes and ``--device`` name.

The folder is ``$PRENTICE_DEVICES``, else ``~/.config/prentice/devices``. Knows files and settings; not devices
themselves.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from launch.yaml_files import explained, plain_values, read_text
from nas.devices.settings import BUILT_IN, resolved, unknown_device
from nas.files import atomic_write, run_path
from nas.kept_profile import profiles_folder
from nas.recipe import DeviceSettings, Recipe
from search_spaces.errors import ConfigError

FOLDER = "PRENTICE_DEVICES"  # environment variable
DEFAULT_FOLDER = Path("~/.config/prentice/devices")
EITHER = ("tokens", "mix")  # two ways to say one thing: whoever says one of them means it


def devices_folder() -> Path:
    """Return where the user's devices are kept; it need not exist."""
    return Path(os.environ.get(FOLDER) or DEFAULT_FOLDER).expanduser()


def own_devices() -> list[str]:
    """Return the names of the user's devices."""
    return sorted(path.stem for path in devices_folder().glob("*.yaml"))


def known_devices() -> list[str]:
    """Return the names of all devices: the built-in ones, then the user's."""
    return [*BUILT_IN, *(name for name in own_devices() if name not in BUILT_IN)]


def device_path(name: str) -> Path:
    """Return the file of one of the user's devices, whether it exists or not.

    Raises:
        ConfigError: The name cannot be that of a device.
    """
    if name in BUILT_IN:
        raise ConfigError(f"device {name!r}: is built in; choose another name.")
    return run_path(devices_folder(), name).with_name(f"{name}.yaml")


def read_device(name: str) -> DeviceSettings:
    """Return the settings of a device by its name.

    Raises:
        ConfigError: There is no such device, or its file has a mistake, which is named with its line.
    """
    if name in BUILT_IN:
        return resolved(DeviceSettings(name=name))
    if name not in own_devices():
        raise unknown_device(name, known_devices())
    path = device_path(name)
    text = read_text(path)
    values = plain_values(text, path)
    if not isinstance(values, dict) or values.setdefault("name", name) != name:
        found = repr(values["name"]) if isinstance(values, dict) else f"a {type(values).__name__}"
        raise ConfigError(f"{path}: holds {found}; the settings of device {name!r} are expected.")
    values.setdefault("backend", DeviceSettings().backend)
    try:
        return DeviceSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explained(error, text, path, DeviceSettings)) from None


def save_device(settings: DeviceSettings, replace: bool = False) -> Path:
    """Write a device to its file, whole or not at all, and return the path.

    Raises:
        ConfigError: There is a device of this name already, and it is not to be replaced.
    """
    path = device_path(settings.name)
    if path.exists() and not replace:
        raise ConfigError(f"device {settings.name!r}: exists already, in {path}; replace it with --force.")
    atomic_write(path, device_yaml(settings).encode())
    return path


def remove_device(name: str) -> Path:
    """Delete the file of a device with what is kept of it, and return where it was.

    Raises:
        ConfigError: There is no such device, or it is built in.
    """
    path = device_path(name)
    if not path.exists():
        raise unknown_device(name, known_devices())
    path.unlink()
    shutil.rmtree(profiles_folder(devices_folder(), name), ignore_errors=True)
    return path


def device_yaml(settings: DeviceSettings) -> str:
    """Return all settings of a device as YAML."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def with_devices(recipe: Recipe) -> Recipe:
    """Return a recipe whose devices have all their settings; what the recipe says itself wins over a device's file.

    Raises:
        ConfigError: A device is unknown, or its file has a mistake.
    """
    return recipe.on([_completed(asked) for asked in recipe.targets.values()])


def _completed(asked: DeviceSettings) -> DeviceSettings:
    """Return a device with all its settings; one that names its backend has them."""
    if "backend" in asked.model_fields_set:
        return asked
    known = read_device(asked.name).model_dump(exclude_unset=True)
    return merged(known, asked.model_dump(exclude_unset=True))


def merged(known: Mapping[str, Any], told: Mapping[str, Any]) -> DeviceSettings:
    """Return the settings of a device, changed by what a recipe or a command line says.

    Raises:
        ConfigError: Together they contradict each other.
    """
    kept = {key: value for key, value in known.items() if not (key in EITHER and set(EITHER) & set(told))}
    options = {**known.get("options", {}), **told.get("options", {})}
    try:
        return DeviceSettings.model_validate({**kept, **told, "options": options})
    except ValidationError as error:
        raise ConfigError(explained(error, "", None, DeviceSettings)) from None
