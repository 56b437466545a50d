"""Operations on uploads of checkpoints."""

from typing import Annotated

import anyio
from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from zsei.service.answers import gives, problems, sent
from zsei.service.checkpoints import NAME, UPLOADS, Checkpoints, Draft, Uploaded, too_large
from zsei.service.desk import Desk
from zsei.service.problems import Refused

UploadName = Annotated[
    str, Path(pattern=NAME, description="Letters, digits, `.`, `_`, `-`, and `.safetensors`.")
]
ADDRESS = "/v1/checkpoints/"
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def upload_routes(checkpoints: Checkpoints, desk: Desk, *, patience: float) -> APIRouter:
    """The operations, for one folder.

    Args:
        checkpoints: The folder.
        desk: Knows which checkpoints are still needed.
        patience: Seconds that an upload may stand still.
    """
    routes = APIRouter(prefix="/v1", tags=["checkpoints"])

    @routes.put(
        "/checkpoints/{name}",
        status_code=201,
        responses={
            200: gives(Uploaded, "The same bytes were there already."),
            201: gives(Uploaded, "It lies there now."),
            **problems(400, 408, 409, 422, 507),
        },
        openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
    )
    async def put_checkpoint(name: UploadName, request: Request) -> Response:
        """Upload a safetensors file. It lies there whole or not at all."""
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > checkpoints.largest:
            raise too_large(checkpoints.largest)
        draft = await run_in_threadpool(checkpoints.draft, name)
        try:
            await _receive(request, draft, patience)
            kept, new = await run_in_threadpool(checkpoints.keep, draft)
        finally:
            draft.discard()
        return sent(kept, 201 if new else 200)

    @routes.delete("/checkpoints/{name}", status_code=204, responses=problems(404, 409, 422))
    def delete_checkpoint(name: UploadName) -> Response:
        """Delete an upload that no request without a decision is about."""
        if f"{UPLOADS}/{name}" in desk.needed():
            raise Refused(409, f"{name!r} is needed until its request has a decision; wait for it.")
        checkpoints.delete(name)
        return Response(status_code=204)

    return routes


async def _receive(request: Request, draft: Draft, patience: float) -> None:
    """Bytes as they come, onto the disk.

    Raises:
        Refused: They stop coming, or are too many.
    """
    stream = request.stream()
    try:
        while True:
            with anyio.fail_after(patience):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            await run_in_threadpool(draft.write, chunk)
    except TimeoutError:
        raise Refused(408, f"An upload may stand still for {patience:g} s; send it anew.") from None
    except ClientDisconnect:
        raise Refused(400, "An upload must arrive whole, and the connection ended.") from None
