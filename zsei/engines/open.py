"""Engines by name."""

from typing import Literal, get_args

from zsei.engines.engine import Engine, MakeWork
from zsei.engines.local import LocalEngine
from zsei.errors import UsageError

Name = Literal["local", "ray"]


def open_engine(
    name: str,
    make: MakeWork,
    *,
    workers: int,
    address: str | None = None,
    priority: Literal["idle", "normal"] = "idle",
    threads: int = 1,
) -> Engine:
    """An engine that is ready for tasks; `close` it.

    Args:
        name: `local` for processes on this machine, `ray` for those of a Ray cluster.
        make: Called once in each worker; what it returns does the tasks.
        workers: Tasks that may run at once.
        address: Of the Ray cluster; None starts one on this machine. Only for `ray`.
        priority: `idle`: workers run when nothing else wants the processor.
        threads: Of the numerical libraries in a worker.

    Raises:
        UsageError: No such engine, no workers, an address for an engine that has none, `make`
            cannot be sent to another process, Ray is not installed or cannot be reached.
    """
    if name == "ray":
        from zsei.engines.ray_engine import RayEngine

        return RayEngine(make, workers=workers, address=address, priority=priority, threads=threads)
    if name != "local":
        known = " or ".join(f"`{one}`" for one in get_args(Name))
        raise UsageError(f"An engine is {known}; got `{name}`.")
    if address is not None:
        raise UsageError(
            f"The engine `local` runs on this machine and takes no address; got `{address}`. "
            "Leave it out, or choose the engine `ray`."
        )
    return LocalEngine(make, workers=workers, priority=priority, threads=threads)
