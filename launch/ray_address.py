"""Where a Ray cluster is, whether it may and can be joined, and what a start of Ray that failed means in one line.

Knows addresses and errors; starts nothing.
"""

import ipaddress
import os
import socket

from ray.exceptions import AuthenticationError, RayError

from nas.recipe import ClusterSettings
from search_spaces.errors import ConfigError

INIT_ERRORS = (OSError, ValueError, RuntimeError, RayError)  # all that ray.init raises for what a user can mend
ON_THIS_MACHINE = ("auto", "local")


def cluster_address(settings: ClusterSettings) -> str | None:
    """Return the address of the cluster, from the recipe or ``RAY_ADDRESS``; None means a local Ray."""
    return settings.address or os.environ.get("RAY_ADDRESS") or None


def check_address(settings: ClusterSettings) -> None:
    """Find out in seconds that a cluster cannot be joined or should not be; nothing is sent to it.

    Raises:
        ConfigError: The address is none, nothing listens there, or it is another machine's and Ray's authentication
            is off without the recipe allowing that.
    """
    address = cluster_address(settings)
    if settings.executor != "ray" or address is None or address in ON_THIS_MACHINE:
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit():
        raise ConfigError(f"cluster.address: {address!r} is no address; it must be host:port of a head node, or auto.")
    if not settings.allow_unauthenticated and not _is_loopback(host):
        _check_authentication(address)
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()  # Ray itself tries for a minute
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _is_loopback(host: str) -> bool:
    """Return whether a host can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_authentication(address: str) -> None:
    """Refuse a cluster on the network unless this process shows it a token."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if (mode or "").lower() != "token":
        raise ConfigError(
            f"cluster.address: {address!r} is on the network and RAY_AUTH_MODE is {mode!r}, so whoever reaches it "
            "can run code there; it must be 'token'. Set RAY_AUTH_MODE=token here and on every node, with one token "
            "(ray get-auth-token --generate), or set cluster.allow_unauthenticated: true in a network you trust."
        )


def init_error(address: str | None, error: Exception) -> ConfigError:
    """Return what a failed ``ray.init`` means, in one line with what to do.

    Args:
        address: Of the cluster; None for a local Ray.
        error: What Ray raised; a ConnectionError of it hides the reason in its cause.
    """
    whole = " ".join(f"{error} {error.__cause__ or ''}".split())
    reason = whole[:300]
    if isinstance(error, AuthenticationError) or "AuthenticationError" in whole:
        return ConfigError(
            f"cluster.address: Ray at {address!r} did not accept this process's token; both need the same one. "
            "Set RAY_AUTH_MODE=token and copy the head's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN."
        )
    if "Version mismatch" in whole:
        return ConfigError(
            f"cluster.address: {address!r} runs other versions ({reason}); Ray and Python must be the same. "
            "Install the cluster's versions here, or ours there."
        )
    if "AF_UNIX" in whole:
        return ConfigError(
            f"cluster: the folder for temporary files is too deep for Ray's sockets ({reason}); "
            "their paths may have 107 bytes. Set TMPDIR to a short path such as /tmp."
        )
    if address is None:
        return ConfigError(f"cluster: Ray does not start here ({reason}); nas doctor tells what works. Mend the cause.")
    return _unreachable(address, error)


def _unreachable(address: str, error: Exception) -> ConfigError:
    """Return the error for an address where no Ray answers."""
    reason = str(error).partition("\n")[0][:300]
    return ConfigError(
        f"cluster.address: no Ray answers at {address!r} ({reason}); it must be host:port of a head node. "
        "Start one with: ray start --head"
    )
