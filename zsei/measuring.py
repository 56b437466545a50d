"""Measurements asked for from Python, kept in memory as the commands keep theirs."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from zsei.claims import check
from zsei.claims.record import ClaimsRecord
from zsei.memory.keeping import kept_or_why
from zsei.profiling import profile as profiling
from zsei.profiling.record import ProfileRecord
from zsei.settings import Settings
from zsei.speed import speed_up as speed
from zsei.speed.record import SpeedRecord

Given = ParamSpec("Given")
Kept = TypeVar("Kept", SpeedRecord, ProfileRecord, ClaimsRecord)


def keeping(measure: Callable[Given, Kept]) -> Callable[Given, Kept]:
    """The same function, whose record is also kept in the memory of its `settings`."""

    @wraps(measure)
    def measured(*args: Given.args, **kwargs: Given.kwargs) -> Kept:
        record = measure(*args, **kwargs)
        settings = kwargs.get("settings")
        why = kept_or_why(record, settings if isinstance(settings, Settings) else Settings())
        if why:
            warnings.warn(why, stacklevel=2)
        return record

    return measured


speed_up = keeping(speed.speed_up)
profile = keeping(profiling.profile)
check_claims = keeping(check.check_claims)
