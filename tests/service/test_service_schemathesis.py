"""Requests made from the service's own description: none may find a fault.

The engine of schemathesis is used as its command line does: examples, every border of every field,
random requests, and chains of them; each answer goes through all of its checks.
"""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import from_schema
from served import Served, request, served

TOKEN = "correct-horse-battery-staple"


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


def tried(running: Served, examples: int, phases: tuple[str, ...]) -> tuple[int, list[str]]:
    """How many answers were checked, and what was wrong with any."""
    headers = {"authorization": f"Bearer {TOKEN}"} if running.service.token else {}
    config = schemathesis.Config.from_dict(
        {
            "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
            **({"auth": {"openapi": {"token": {"bearer": TOKEN}}}} if headers else {}),
            "phases": {
                name: {"enabled": name in phases}
                for name in ("examples", "coverage", "fuzzing", "stateful")
            },
            # No schema can say what a safetensors file is.
            "operations": [
                {
                    "include-operation-id": "put_checkpoint_v1_checkpoints__name__put",
                    "checks": {"positive_data_acceptance": {"enabled": False}},
                }
            ],
        }
    )
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", door(running.app), config=config, headers=headers
    )
    answers, wrong = 0, []
    for event in from_schema(schema).execute():
        if type(event).__name__ == "NonFatalError":
            wrong.append(str(event.info))
        for case, checks in getattr(getattr(event, "recorder", None), "checks", {}).items():
            answers += 1
            for check in checks:
                if check.failure_info is not None:
                    told = event.recorder.cases[case].value.as_curl_command()
                    wrong.append(f"{check.name}: {check.failure_info.failure.message}\n{told}")
    return answers, wrong


def run(folder: Path, examples: int, phases: tuple[str, ...], **changed: Any) -> None:
    with served(folder, most=5, **changed) as running:
        if running.service.token is None:
            running.upload()
            running.send(request())
            running.decided("digits-1")
        answers, wrong = tried(running, examples, phases)
    assert answers >= examples * 8
    assert wrong == []


def test_no_request_finds_a_fault(tmp_path: Path) -> None:
    run(tmp_path, 1, ("examples", "fuzzing"))


@pytest.mark.long
@pytest.mark.parametrize("token", [None, TOKEN])
def test_no_request_of_many_finds_a_fault(tmp_path: Path, token: str | None) -> None:
    run(tmp_path, 8, ("examples", "coverage", "fuzzing", "stateful"), token=token)
