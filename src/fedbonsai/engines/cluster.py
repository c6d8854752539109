"""Joining a Ray cluster, or starting one on this machine, and what its machines must have in common."""

import importlib
import logging
import os
import secrets
import socket
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType

from fedbonsai.core.errors import ConfigError
from fedbonsai.engines.kit import Kit, instructions, versions

logger = logging.getLogger(__name__)


def import_ray() -> ModuleType:
    """Load Ray, which only this engine needs; as something private, unless it is to join a cluster.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" not in sys.modules and not os.environ.get("RAY_ADDRESS"):
        # A cluster of this machine would listen to the whole network and run whatever it is sent. Ray looks here once,
        # while it is loaded.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            "engine=ray needs the package ray, which is not installed; run: pip install 'fedbonsai[cluster]'"
        ) from error


def join(ray: ModuleType, cores: int) -> bool:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine.

    Args:
        ray: The module.
        cores: CPUs of a cluster that is started here.

    Returns:
        Whether there is something to shut down afterwards; not so when the caller's program had joined one before.

    Raises:
        ConfigError: There is no such cluster, or its Ray or Python has another version.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS", "")
    options = {"address": address} if address else {"address": "local", "num_cpus": cores, "include_dashboard": False}
    try:
        if address not in ("", "auto"):
            _knock(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of accelerators, which we do not use
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        what = f"at RAY_ADDRESS={address}" if address else "on this machine"
        raise ConfigError(
            f"a Ray cluster must answer {what}: {first_line(error)}; start it with `ray start --head`, and give all "
            "its machines the same version of Ray"
        ) from error
    return True


def _knock(address: str) -> None:
    """See whether anybody is there at all; Ray alone would wait for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if "/" in host or not (host and port.isdecimal() and int(port) < 1 << 16):
        raise ConfigError(
            f"RAY_ADDRESS must be HOST:PORT or auto, got {address!r}; run this on a machine of the cluster"
        )
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def room(ray: ModuleType, workers: int | None) -> int:
    """How many workers the cluster takes: one a CPU, and no more than ``workers``.

    Raises:
        ConfigError: It has no CPU.
    """
    cores = int(ray.cluster_resources().get("CPU", 0))
    if not cores:
        raise ConfigError(
            "the Ray cluster must have a CPU, it has none; run `ray start --address=HOST:PORT` on a machine"
        )
    return min(workers or cores, cores)


def put(ray: ModuleType, kit: Kit) -> object:
    """Put the kit into the object store, from which each machine takes it once.

    Raises:
        ConfigError: It holds what cannot be pickled.
    """
    try:
        return ray.put(kit)
    except (TypeError, AttributeError, ray.cloudpickle.pickle.PicklingError) as error:
        raise ConfigError(
            f"model, loss, data and method must be such that they can be sent to other machines: {first_line(error)}; "
            "use engine=processes"
        ) from error


def check(found: Mapping[str, str]) -> None:
    """Refuse a machine whose results would differ by its versions; warn of one whose last bits might.

    Args:
        found: What `Server.begin` has said.

    Raises:
        ConfigError: A version differs.
    """
    here = versions()
    wrong = [f"{name} {found[name]} there, {here[name]} here" for name in here if found[name] != here[name]]
    if wrong:
        raise ConfigError(
            f"all machines must have the same versions, {found['machine']} has not: {', '.join(wrong)}; "
            "install the same"
        )
    if found["instructions"] != instructions():
        logger.warning(
            "%s computes with %s, this machine with %s: results may differ in their last bits",
            *(found["machine"], found["instructions"], instructions()),
        )


def first_line(error: BaseException) -> str:
    """The first line of an error of Ray, whose others are a trace."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:500]
