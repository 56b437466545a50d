"""Measurements asked for from Python, kept in memory as the commands keep theirs."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from zsei.claims import check
from zsei.claims.record import ClaimsRecord
from zsei.errors import ZseiError
from zsei.memory import open_memory
from zsei.memory.documents import keep
from zsei.profiling import profile as profiling
from zsei.profiling.record import ProfileRecord
from zsei.settings import Settings
from zsei.speed import speed_up as speed
from zsei.speed.record import SpeedRecord

Given = ParamSpec("Given")
Kept = TypeVar("Kept", SpeedRecord, ProfileRecord, ClaimsRecord)


def kept_or_why(record: SpeedRecord | ProfileRecord | ClaimsRecord, settings: Settings) -> str:
    """Keep a measurement, where `zsei list`, `show` and `ask` find it; why not, where it fails.

    A memory that cannot be written takes no measurement away.
    """
    try:
        keep(open_memory(settings), record)
    except ZseiError as error:
        return f"The measurement was not kept in memory. {error}"
    return ""


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
