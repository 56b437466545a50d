"""A Ray cluster: join one or start one, and the actor that stands for a worker in it."""

import os
import shutil
import socket
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from zsei.engines.child import in_words
from zsei.engines.crew import Crew
from zsei.engines.engine import Done, Limits
from zsei.engines.supervise import Supervisor
from zsei.errors import UsageError, ZseiError

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
KNOCK_SECONDS = 20.0
"""Until a cluster that does not answer is given up."""
LOOK_SECONDS = 1.0
"""Between two looks of an actor whether its machine's daemon lives."""


class Post:
    """An actor: one worker process on whatever machine it stands."""

    def __init__(self, crew: Crew):
        self._crew = crew
        # Ray lets an actor whose machine's daemon died finish what it is at. Its task is done
        # elsewhere by then, so it would work for nobody.
        watch = threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True)
        watch.start()

    def make_ready(self, limits: Limits) -> str:
        """Start the worker; why it cannot be, or nothing."""
        return Supervisor(self._crew, (), limits).make_ready()

    def run(self, task: bytes, limits: Limits) -> Done:
        """Do a task; it and what the work returns stay pickled."""
        packs = {"pack": bytes, "unpack": bytes}
        done = Supervisor(self._crew, (task,), limits, **packs).results()[0]
        return replace(done, task=None)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)  # which closes the pipe that its worker lives by


def import_ray() -> ModuleType:
    """The package.

    Raises:
        UsageError: It is not installed.
    """
    # Read once, when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "The engine `ray` needs the package ray, which is not installed here. "
            "Install it with `pip install zsei[ray]`, or choose the engine `local`."
        ) from error
    return ray


def join(ray: ModuleType, address: str) -> None:
    """Join the cluster at an address.

    Raises:
        UsageError: None answers there.
    """
    try:
        _knock(address)  # Ray itself goes on asking for minutes
        ray.init(address, **QUIET)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"A Ray cluster must answer at `{address}`, and none does ({in_words(error)}). Start "
            "one with `ray start --head`, or leave the address out to start one on this machine."
        ) from error


def start(ray: ModuleType, processors: int) -> Path:
    """Start a cluster that nothing beyond this machine can reach; the folder of its files.

    Raises:
        ZseiError: It did not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="zsei-ray-"))
    # Its sockets lie in there, and the names of sockets must be short.
    elsewhere = {"_temp_dir": str(folder)} if len(str(folder)) < 40 else {}
    local = {"num_cpus": processors, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init("local", **QUIET, **local, **elsewhere)
    except Exception as error:  # Ray raises a bare one where the machine is too slow for it
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        raise ZseiError(
            f"A Ray cluster must come up on this machine, and it did not ({in_words(error)}). "
            "Try again when the machine is less busy, or choose the engine `local`."
        ) from error
    return folder


def _knock(address: str) -> None:
    """See whether anything listens at an address that names a host and a port.

    Raises:
        OSError: Nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
