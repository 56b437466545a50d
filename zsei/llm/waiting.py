"""Runs a coroutine under a wall-clock deadline from anywhere, a notebook's running loop included.

A library's own `timeout` is per read: a server that sends one byte at a time never trips it.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

Result = TypeVar("Result")

_GRACE = 0.25
"""Seconds beyond the deadline after which a coroutine that ignores its cancellation is left."""


def run_within(coroutine: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """The coroutine's result.

    Raises:
        TimeoutError: It took longer than `seconds`; it has been cancelled.
    """
    bounded = asyncio.wait_for(coroutine, seconds)
    future = asyncio.run_coroutine_threadsafe(bounded, _background_loop())
    try:
        return future.result(seconds + _GRACE)
    except concurrent.futures.CancelledError:
        raise TimeoutError from None
    finally:
        future.cancel()  # nothing when it is done; an interrupt must not leave it running


@cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """One event loop in a daemon thread: connections are kept per loop, so it stays."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="zsei-llm", daemon=True).start()
    return loop
