"""What tokens cost, by the list that litellm carries; nothing is fetched."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

_TIER = re.compile(r"_above_(\d+)k_tokens$")


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars per token, in tiers by the length of the question."""

    tiers: tuple[tuple[int, float, float], ...]
    """(tokens read from which on it holds, dollars per token read, per token written), rising."""

    def of(self, read: int, written: int) -> float:
        """Dollars of one call. Discounts, as for cached prompts or batches, are not taken off."""
        _, reading, writing = [tier for tier in self.tiers if tier[0] <= read][-1]
        return read * reading + written * writing


def flat_price(input_price: float, output_price: float) -> Price:
    """A price from dollars per million tokens read and written."""
    return Price(tiers=((0, input_price / 1e6, output_price / 1e6),))


def listed_price(prices: Mapping[str, Any], model: str, provider: str) -> Price | None:
    """The price of a model in litellm's list.

    Args:
        prices: `litellm.model_cost`.
        model: litellm's name, with or without the provider before it.
        provider: Whom litellm would ask.

    Returns:
        None where the list lacks the model or names no price. A price of 0 is no price: the list
        writes 0 for what it does not know, too.
    """
    for name in (model, model.removeprefix(f"{provider}/")):
        entry = prices.get(name)
        if isinstance(entry, Mapping) and entry.get("litellm_provider") == provider:
            return _price(entry)
    return None


def _price(entry: Mapping[str, Any]) -> Price | None:
    reading, writing = _tiers(entry, "input_cost_per_token"), _tiers(entry, "output_cost_per_token")
    thinking = entry.get("output_cost_per_reasoning_token")
    thinking = thinking if _is_price(thinking) else 0.0
    if not reading.get(0) or 0 not in writing:
        return None
    tiers = []
    for start in sorted({*reading, *writing}):
        written = writing[max(at for at in writing if at <= start)]
        read = reading[max(at for at in reading if at <= start)]
        tiers.append((start, read, max(written, thinking)))
    return Price(tiers=tuple(tiers))


def _tiers(entry: Mapping[str, Any], name: str) -> dict[int, float]:
    """Price by the number of tokens from which on it holds."""
    found = {0: entry[name]} if _is_price(entry.get(name)) else {}
    for key, price in entry.items():
        tier = _TIER.fullmatch(key.removeprefix(name)) if key.startswith(name) else None
        if tier and _is_price(price):
            found[int(tier[1]) * 1000] = price
    return found


def _is_price(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
