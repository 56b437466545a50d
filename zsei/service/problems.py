"""What the service answers where it cannot do what was asked: problem details (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from zsei.errors import DataError, OutputError, ZseiError
from zsei.records import Record

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
MEDIA_TYPE = "application/problem+json"


class Fault(Record):
    """One thing that is wrong with a message."""

    place: str
    """Path of the field, such as `checkpoint.epoch`."""
    message: str


class Problem(Record):
    """Why something was refused."""

    title: str
    """Of the status."""
    status: int = Field(ge=400, le=599)
    detail: str
    """The rule, what arrived and the likely fix."""
    errors: tuple[Fault, ...] = ()
    """Each thing that is wrong with a message."""


class Refused(Exception):
    """Ends a request with a problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors
        )
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """As an answer."""
        return Response(
            self.problem.model_dump_json(),
            self.problem.status,
            media_type=MEDIA_TYPE,
            headers=self.headers,
        )


def answer_problems(app: FastAPI) -> None:
    """Let every way a request can fail end in a problem, never in a stack trace."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> Response:
        said = {
            404: f"There is nothing at {request.url.path[:200]!r}; /docs lists what there is.",
            405: f"{request.method} is not possible at this address; `Allow` names what is.",
        }.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(app, request))
        return Refused(error.status_code, said, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, error: RequestValidationError) -> Response:
        faults = tuple(
            Fault(place=".".join(str(part) for part in e["loc"]), message=e["msg"])
            for e in error.errors()
        )
        detail = f"The address must fit; {faults[0].place}: {faults[0].message}."
        return Refused(422, detail, errors=faults).response()

    @app.exception_handler(ZseiError)
    async def ours(_: Request, error: ZseiError) -> Response:
        return Refused(status_of(error), str(error)).response()

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> Response:
        said = f"The service met an error it does not know ({type(error).__name__}); see its log."
        return Refused(500, said).response()


def _methods(app: FastAPI, request: Request) -> list[str]:
    """What is possible at an address; the framework names only what its first route there can."""
    found: set[str] = set()
    for method in METHODS:
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.routes):
            found.add(method)
    return sorted(found)


def status_of(error: ZseiError) -> int:
    """The status that an error of ours is answered with."""
    if isinstance(error, OutputError):
        return 507
    return 422 if isinstance(error, DataError) else 400
