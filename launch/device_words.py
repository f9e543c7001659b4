"""A device and its calls in words, the same in every table and report."""

from nas.devices import BACKENDS
from nas.devices.settings import workload_of
from nas.recipe import DeviceSettings


def called(settings: DeviceSettings) -> str:
    """Return the name of a device, and where its milliseconds come from unless they are measured."""
    origin = BACKENDS.load(settings.backend).origin
    return settings.name if origin == "measured" else f"{settings.name} ({origin})"


def calls(settings: DeviceSettings, tokens: int) -> str:
    """Return what one call is, e.g. ``batch 1, 25 tokens, 1 thread``."""
    work = workload_of(settings, tokens)
    mix = " and ".join(f"{length} ({share:.0%})" for length, share in work.mix)
    return f"batch {work.batch}, {mix or tokens} tokens, {settings.threads} thread{'s' if settings.threads > 1 else ''}"
