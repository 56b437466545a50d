"""What operations answer with, as the service describes it and as it sends it."""

from typing import Any, Literal

from fastapi.responses import Response
from pydantic import BaseModel, Field

from zsei.records import Record
from zsei.service.problems import MEDIA_TYPE

WHY = {
    400: "The body is no JSON that means one thing, or it is not whole.",
    401: "The token is missing or another one.",
    404: "There is no such thing.",
    405: "This address cannot do that.",
    408: "The upload stood still for too long.",
    409: "It contradicts what was sent before.",
    413: "It is too large.",
    415: "It is of another content type.",
    421: "The service was called by a name that is not its own.",
    422: "It is not the message that is expected; `errors` says where.",
    429: "As many requests wait as may.",
    503: "The service is being stopped.",
    507: "The disk does not take it.",
}
"""Status of a problem -> when."""


class Pending(Record):
    """A request that was taken and has no decision yet."""

    request_id: str
    state: Literal["waiting", "running"]
    ahead: int = Field(ge=0)
    """Requests that are answered before it."""
    decision: str
    """Address of the decision: 202 until it is there."""


class Received(Record):
    """What a report of what was done came to."""

    decision_id: str
    repeated: bool
    """Whether it was reported before; then nothing changed."""


class Contract(Record):
    """A message, and where its schema is."""

    name: str
    schema_id: str
    """`$id` of its JSON schema."""
    address: str


class Contracts(Record):
    """The messages that are understood."""

    version: str
    contracts: tuple[Contract, ...]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems an operation may end in, for its description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    everywhere = (401, 413, 421)
    return {
        status: {"description": WHY[status], "content": content}
        for status in sorted({*everywhere, *statuses})
    }


def gives(kind: type[BaseModel], said: str) -> dict[str, Any]:
    """An answer of an operation, for its description."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"description": said, "content": {"application/json": {"schema": schema}}}


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """The body of an operation, for its description."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def sent(message: BaseModel, status: int = 200, **headers: str) -> Response:
    """A message as an answer."""
    return Response(
        message.model_dump_json(), status, media_type="application/json", headers=headers
    )
