"""The service as an ASGI application: a function of its parts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response

from zsei import __version__
from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import MESSAGES, VERSION
from zsei.gate.breaker import Breaker
from zsei.service.answers import Contract, Contracts, Pending, Received, gives, problems, sent
from zsei.service.checkpoints import Checkpoints, Uploaded
from zsei.service.desk import Desk
from zsei.service.guard import Guard
from zsei.service.health import Health, Place, objectives
from zsei.service.metrics import Counts, registry_of
from zsei.service.pages import POLICY, documentation
from zsei.service.problems import Problem, Refused, answer_problems
from zsei.service.requests import request_routes
from zsei.service.schemas import PUBLISHED, definitions_of, schema_id, schema_of, text_of
from zsei.service.uploads import ADDRESS, upload_routes

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a service is made of."""

    desk: Desk
    checkpoints: Checkpoints
    config: CheckpointConfig
    worker_id: str
    """Name of this service among others; its health is asked for by it."""
    engine: str
    workers: int
    breaker: Callable[[], Breaker]
    token: str | None = None
    largest_message: int = 8 * 1024**2
    """Bytes of a message."""
    patience: float = 60.0
    """Seconds that an upload may stand still."""
    grace: float = 10.0
    """Seconds that an analysis has to end when the service is stopped; one that takes longer is
    done anew by the next service."""


def build_app(service: Service) -> FastAPI:
    """The application. It answers requests while its lifespan is open."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.checkpoints.clear_drafts()
        service.desk.start()
        yield
        await run_in_threadpool(service.desk.stop, service.grace)

    app = FastAPI(
        title="ZSEI",
        version=__version__,
        description="Analyses checkpoints of a training run and decides what may be cut.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    answer_problems(app)
    app.include_router(request_routes(service.desk))
    app.include_router(upload_routes(service.checkpoints, service.desk, patience=service.patience))
    app.include_router(_contract_routes())
    app.include_router(_state_routes(service))
    app.include_router(_page_routes(app))
    app.openapi = lambda: _openapi(app, service.token is not None)
    app.add_middleware(
        Guard, token=service.token, largest=service.largest_message, unlimited=[ADDRESS],
        headers=SECURITY,
    )  # fmt: skip
    return app


def _contract_routes() -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["contracts"])

    @routes.get("/contracts", responses={200: gives(Contracts, "The contracts."), **problems()})
    def list_contracts() -> Response:
        """List the messages and their parts."""
        found = tuple(
            Contract(
                name=name, schema_id=schema_id(name), address=f"/v1/contracts/{name}"
            )
            for name in PUBLISHED
        )  # fmt: skip
        return sent(Contracts(version=VERSION, contracts=found))

    @routes.get(
        "/contracts/{name}",
        responses={
            200: {
                "description": "A JSON schema (2020-12).",
                "content": {"application/schema+json": {"schema": {"type": "object"}}},
            },
            **problems(404),
        },
    )
    def read_contract(name: Annotated[str, Path(max_length=100)]) -> Response:
        """Read the JSON schema of a message, or of a part of one."""
        if name not in PUBLISHED:
            raise Refused(404, f"Contracts are {', '.join(PUBLISHED)}; {name[:100]!r} is none.")
        return Response(text_of(schema_of(name)), media_type="application/schema+json")

    return routes


def _state_routes(service: Service) -> APIRouter:
    routes = APIRouter(tags=["state"])
    desk = service.desk
    registry = registry_of(
        Counts(
            desk.tally.figures,
            lambda: desk.waiting,
            service.breaker,
            lambda: objectives(desk.tally.figures(), service.config),
        )
    )

    @routes.get(
        "/health/elesh/{worker_id}/structured_analysis",
        responses={200: gives(Health, "How it stands."), **problems(404)},
    )
    def read_health(
        worker_id: Annotated[str, Path(max_length=100, description="Name of the service.")],
    ) -> Response:
        """Read how the analysis stands, against the figures it is to hold."""
        if worker_id != service.worker_id:
            raise Refused(
                404,
                f"This service is called {service.worker_id!r}, and {worker_id[:100]!r} was asked "
                "for; ask the other one, or by this name.",
            )
        return sent(health_of(service))

    @routes.get(
        "/metrics",
        responses={
            200: {
                "description": "Metrics for Prometheus.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **problems(),
        },
    )
    def read_metrics() -> Response:
        """Read the metrics, as Prometheus does."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def health_of(service: Service) -> Health:
    """How a service stands now."""
    desk, breaker = service.desk, service.breaker()
    figures = desk.tally.figures()
    goals = objectives(figures, service.config)
    well = not breaker.open and all(goal.held is not False for goal in goals)
    return Health(
        worker_id=service.worker_id,
        status="stopped" if not desk.is_running else "healthy" if well else "degraded",
        state="idle" if desk.running is None else "busy",
        engine=service.engine,
        workers=service.workers,
        waiting=desk.waiting + (desk.running is not None),
        answered=figures.answered,
        last=Place(run=figures.last[0], epoch=figures.last[1]) if figures.last else None,
        completion_rate=figures.completion_rate,
        duration_p95=figures.duration_p95,
        peak_memory_bytes=figures.peak_memory_bytes,
        ranking_accuracy=figures.ranking_accuracy,
        breaker=breaker.text(),
        objectives=goals,
    )


def _page_routes(app: FastAPI) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    def read_documentation() -> Response:
        return HTMLResponse(
            documentation(app.openapi()), headers={"Content-Security-Policy": POLICY}
        )

    return routes


def _openapi(app: FastAPI, with_token: bool) -> dict[str, Any]:
    """The OpenAPI document, with the messages as they are published."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        kinds = (*MESSAGES, Pending, Received, Contracts, Uploaded, Health, Problem)
        components = found.setdefault("components", {})
        components["schemas"] = dict(sorted(definitions_of(kinds).items()))
        _without_the_framework(found)
        if with_token:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"token": []}]
        app.openapi_schema = found
    return app.openapi_schema


def _without_the_framework(document: dict[str, Any]) -> None:
    """Take out the answers that FastAPI describes and this application never gives."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                schema = response.get("content", {}).get("application/json", {}).get("schema", {})
                if schema.get("$ref", "").endswith("/HTTPValidationError"):
                    del response["content"]["application/json"]
