"""Keeps the time of an analysis: seconds per stage, progress with an estimate, and the budget."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Progress = Callable[[str, float, float | None, str], None]
"""Called with (stage, share done 0..1, seconds remaining or None, note)."""

SHARES = {
    "prepare": 0.10,
    "trace": 0.12,
    "importance": 0.20,
    "analyze": 0.08,
    "validate": 0.25,
    "advise": 0.05,
    "gate": 0.20,
}
"""Share of the whole that each stage takes on MiniLM; used for the estimate only."""


class Clock:
    """The clock of one analysis, or of one prune."""

    def __init__(
        self,
        progress: Progress | None,
        budget: float | None,
        shares: Mapping[str, float] = SHARES,
    ):
        self.begin = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._budget = budget
        self._shares = shares
        self._done = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[..., None]]:
        """Time a stage; yields a function that reports the share of the stage that is done, and a
        note where there is one.
        """
        begin = time.monotonic()
        before = self._done

        def report(share: float, note: str = "") -> None:
            self._report(name, before + self._shares[name] * min(max(share, 0.0), 1.0), note)

        report(0.0)
        yield report
        self._done = before + self._shares[name]
        self.seconds[name] = time.monotonic() - begin

    def out_of_time(self, share: float = 1.0) -> bool:
        """Whether this share of the budget is spent, so that optional work is left out."""
        return self._budget is not None and time.monotonic() - self.begin > share * self._budget

    def _report(self, name: str, done: float, note: str) -> None:
        if self._progress is None:
            return
        spent = time.monotonic() - self.begin
        remaining = spent / done * (1 - done) if done > 0.05 else None
        self._progress(name, done, remaining, note)
