"""Deadlines hold, and nothing goes on behind the caller's back."""

import asyncio
import threading
import time

import pytest

from zsei.llm import waiting
from zsei.llm.waiting import run_within


async def _slowly(seconds: float, done: list[str]) -> str:
    await asyncio.sleep(seconds)
    done.append("finished")
    return "late"


def test_a_result_comes_through() -> None:
    assert run_within(_slowly(0, []), 1) == "late"


def test_an_error_comes_through() -> None:
    async def fails() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run_within(fails(), 1)


def test_the_deadline_cancels() -> None:
    cancelled = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError):
        run_within(waits(), 0.05)
    assert cancelled.wait(10)


def test_what_ignores_its_cancellation_is_left() -> None:
    assert waiting._GRACE <= 0.5  # what may be added to a deadline

    async def stubborn() -> None:
        for _ in range(50):
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                continue

    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        run_within(stubborn(), 0.05)
    assert time.monotonic() - begin < 5  # it would stay for ten seconds


def test_an_interrupt_cancels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    start = asyncio.run_coroutine_threadsafe

    class Interrupted:
        def __init__(self, *arguments: object) -> None:
            self.future = start(*arguments)  # type: ignore[arg-type]

        def result(self, seconds: float) -> None:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            self.future.cancel()

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", Interrupted)
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_within(_slowly(0.1, done), 1)
    time.sleep(0.2)
    assert done == []
