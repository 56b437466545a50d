"""Bodies of requests: JSON that means one thing, and nothing but the message that is expected."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zsei.service.problems import Fault, Refused

M = TypeVar("M", bound=BaseModel)
SHOWN = 20
"""Faults that are listed."""
EXACT = 2**53
"""Up to here a float tells every integer."""


def check_media_type(given: str | None) -> None:
    """Refuse all but JSON in UTF-8.

    A page of a stranger in a user's browser can send other types here without asking first.
    """
    kind, _, rest = (given or "").partition(";")
    charset = rest.strip().lower().replace('"', "")
    if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Refused(
            415, "A message is sent as `application/json` in UTF-8; set that content type."
        )


def message_in(kind: type[M], body: bytes) -> M:
    """The message in a body.

    Raises:
        Refused: 400, it is no JSON that means one thing; 422, it is not that message.
    """
    value = _json_in(body)
    try:
        # Strict reading of JSON text: lists become tuples, but "1" no number.
        return kind.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        faults = tuple(
            Fault(place=".".join(str(part) for part in e["loc"])[:200], message=e["msg"])
            for e in error.errors(include_url=False, include_input=False)[:SHOWN]
        )
        first = faults[0]
        raise Refused(
            422,
            f"The body must be a {kind.__name__}; {first.place or 'the whole'}: {first.message}. "
            f"/v1/contracts/{kind.__name__} is its schema.",
            errors=faults,
        ) from None


def _json_in(body: bytes) -> Any:
    """The value of JSON, unless readers would understand it differently: keys given twice, NaN,
    other bytes than UTF-8.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise ValueError(f"the key {twice[:100]!r} is given twice in one object")
        return found

    def number(text: str) -> None:
        raise ValueError(f"{text} is no number in JSON; leave it out or send null")

    def whole(text: str) -> float | int:
        """1.0 is an integer in JSON, and Python's strict readers want it written so."""
        value = float(text)
        return int(value) if value.is_integer() and abs(value) <= EXACT else value

    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=once, parse_constant=number, parse_float=whole
        )
    except RecursionError:
        why = "it is nested too deeply"
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except ValueError as error:
        why = str(error)
    raise Refused(400, f"The body must be JSON that means one thing, but {why}.")
