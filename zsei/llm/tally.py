"""Sums over calls to a language model."""

import math
from collections.abc import Sequence

from zsei.llm.types import CallRecord
from zsei.records import Record


class Totals(Record):
    """What some calls came to."""

    calls: int
    """Calls that were made; what the cache answered is not among them."""
    cached: int
    requests: int
    """Requests that were sent, as far as anybody counted."""
    input_tokens: int
    output_tokens: int
    """As the providers said; see `tokens` where they did not."""
    tokens: int
    """Counted against budgets, at the worst where nobody said."""
    cost: float | None
    """Dollars counted against budgets; None when no call had a known price."""
    unpriced: int
    """Calls without a known price, which `cost` leaves out."""


def totals(calls: Sequence[CallRecord]) -> Totals:
    """The sums over calls."""
    made = [call for call in calls if not call.cached]
    costs = [call.cost for call in made if call.cost is not None]
    return Totals(
        calls=len(made),
        cached=len(calls) - len(made),
        requests=sum(call.attempts or 0 for call in made),
        input_tokens=sum(call.input_tokens or 0 for call in made),
        output_tokens=sum(call.output_tokens or 0 for call in made),
        tokens=sum(call.tokens for call in made),
        cost=math.fsum(costs) if costs or not made else None,
        unpriced=len(made) - len(costs),
    )
