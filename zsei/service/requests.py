"""Operations on requests, their decisions and reports, and on what was done with them."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.service.answers import Pending, Received, gives, problems, sent, takes
from zsei.service.bodies import M, check_media_type, message_in
from zsei.service.desk import Desk

RequestId = Annotated[
    str,
    Path(
        min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$",
        description="Of a request that was sent.",
    ),
]  # fmt: skip
READ = problems(404, 422)
RETRY = "1"
"""Seconds until it is worth asking again."""


def request_routes(desk: Desk) -> APIRouter:
    """The operations, for one desk."""
    routes = APIRouter(prefix="/v1", tags=["requests"])

    @routes.post(
        "/requests",
        status_code=202,
        responses={
            200: gives(StructuralPruningDecision, "It was sent before: the decision."),
            202: gives(Pending, "It was taken; `Location` is where the decision will be."),
            **problems(400, 404, 409, 415, 422, 429, 503, 507),
        },
        openapi_extra=takes(StructuralAnalysisRequest),
    )
    async def send_request(request: Request) -> Response:
        """Ask for the analysis of a checkpoint, and for a decision about it.

        Sending the same request again changes nothing and gives the same answer. Epochs of a run
        only go up.
        """
        message = await _read(request, StructuralAnalysisRequest)
        decision = await run_in_threadpool(desk.ask, message)
        return _standing(desk, message.request_id) if decision is None else sent(decision)

    @routes.get(
        "/decisions/{request_id}",
        responses={
            200: gives(StructuralPruningDecision, "The decision."),
            202: gives(Pending, "There is none yet."),
            **READ,
        },
    )
    def read_decision(request_id: RequestId) -> Response:
        """Read the decision about a request."""
        decision = desk.ledger.read("decisions", request_id, StructuralPruningDecision)
        return _standing(desk, request_id) if decision is None else sent(decision)

    @routes.get(
        "/reports/{request_id}",
        responses={
            200: gives(AnalysisReport, "How the analysis went."),
            202: gives(Pending, "It is not over yet."),
            **READ,
        },
    )
    def read_report(request_id: RequestId) -> Response:
        """Read how the analysis for a request went.

        A request that no analysis could be made for has a decision and no report: 404.
        """
        report = desk.report_of(request_id)
        return _standing(desk, request_id) if report is None else sent(report)

    @routes.post(
        "/applied",
        responses={
            200: gives(Received, "It was kept."),
            **problems(400, 404, 409, 415, 422, 507),
        },
        openapi_extra=takes(ApplicationReport),
    )
    async def send_applied(request: Request) -> Response:
        """Report what was done with a decision; what was applied can be rolled back later."""
        message = await _read(request, ApplicationReport)
        new = await run_in_threadpool(desk.report, message)
        return sent(Received(decision_id=message.decision_id, repeated=not new))

    return routes


async def _read(request: Request, kind: type[M]) -> M:
    check_media_type(request.headers.get("content-type"))
    body = await whole_body(request.body)
    return await run_in_threadpool(message_in, kind, body)


async def whole_body(read: Callable[[], Awaitable[bytes]]) -> bytes:
    """A body, unless who sent it is gone."""
    from starlette.requests import ClientDisconnect

    from zsei.service.problems import Refused

    try:
        return await read()
    except ClientDisconnect:
        raise Refused(400, "The body must arrive whole, and the connection ended.") from None


def _standing(desk: Desk, request_id: str) -> Response:
    state, ahead = desk.standing(request_id)
    address = f"/v1/decisions/{request_id}"
    pending = Pending(request_id=request_id, state=state, ahead=ahead, decision=address)
    return sent(pending, 202, Location=address, **{"Retry-After": RETRY})
