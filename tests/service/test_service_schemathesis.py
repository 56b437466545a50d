"""Requests made from the service's own description: none may find a server error."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from served import Served, request, served


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("service")) as found:
        found.upload()
        found.send(request())
        found.decided("digits-1")
        yield found


def door(app: Any) -> Any:
    """The application under a name that it answers to; it is running already."""

    async def called(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        await app({**scope, "headers": [*others, (b"host", b"127.0.0.1")]}, receive, send)

    return called


@pytest.fixture(scope="module")
def described(running: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", door(running.app))


schema = schemathesis.pytest.from_fixture("described")
QUIET = list(HealthCheck)


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
def test_no_request_finds_a_fault(case: schemathesis.Case) -> None:
    case.call_and_validate()
