"""Puts a service together for one model, and runs it until it is told to stop."""

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import FastAPI
from filelock import FileLock, Timeout

from zsei.checkpoint.contracts import (
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.job import Job
from zsei.checkpoint.logs import Event, log_event
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.schedule import phase_of
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.locate import snapshot_of
from zsei.errors import OutputError, UsageError
from zsei.gate.breaker import read_breaker
from zsei.records import digest
from zsei.service.app import Service
from zsei.service.checkpoints import Checkpoints
from zsei.service.desk import Analyst, Desk, Parts
from zsei.service.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What runs the analyses."""

    engine: str = "local"
    count: int = 1
    address: str | None = None
    """Of a Ray cluster."""


def make_service(
    job: Job,
    checkpoints: Checkpoints,
    workers: Workers,
    *,
    worker_id: str,
    token: str | None = None,
    most: int = 64,
) -> Service:
    """A service for one model: everything it keeps is in the job's home, in `runs/`.

    Args:
        job: The model, its data and configuration. Each run gets a job of its own name.
        checkpoints: Where checkpoints lie.
        workers: What runs the analyses; started by the first request.
        worker_id: Name of this service among others.
        token: As for `zsei.service.app.Service`.
        most: Requests that may wait.
    """
    desk = Desk(
        ledger=Ledger(runs=job.settings.home / "runs"),
        parts=Parts(
            open_analyst=_analysts(job, workers),
            snapshot=_snapshots(checkpoints),
            refuse=lambda request, why: _refusal(job, request, why),
            log=say,
        ),
        most=most,
    )
    return Service(
        desk=desk,
        checkpoints=checkpoints,
        config=job.config,
        worker_id=worker_id,
        engine=workers.engine,
        workers=workers.count,
        breaker=lambda: read_breaker(job.settings.home),
        token=token,
    )


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold a home for one service: two would answer the same requests.

    Raises:
        UsageError: Another one holds it.
        OutputError: It cannot be written.
    """
    lock = FileLock(home / "serve.lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"One service at a time uses a home, and another one uses {home}; stop it, or set "
            "ZSEI_HOME to another folder."
        ) from None
    except OSError as error:
        raise OutputError(
            f"A service keeps what it was asked in its home, and {home} cannot be written "
            f"({error.strerror or error}). Set ZSEI_HOME to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def listen(host: str, port: int) -> socket.socket:
    """A socket that is listened at.

    Raises:
        UsageError: The address is taken, or none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"A service listens at an address of this machine that is free, and {host} port {port} "
            f"is not ({getattr(error, 'strerror', None) or error}). Choose another --port or "
            "--host."
        ) from error


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until the process is told to stop (SIGINT or SIGTERM)."""
    import uvicorn

    log_as_json()
    settings = uvicorn.Config(
        app, log_config=None, access_log=True, server_header=False, lifespan="on",
        timeout_graceful_shutdown=5, timeout_keep_alive=15,
    )  # fmt: skip
    uvicorn.Server(settings).run(sockets=[listener])


def say(folder: RunFolder | None, event: Event) -> None:
    """Write an event into the log of its run, and as a line of JSON to standard error."""
    if folder is not None:
        log_event(folder.log, event)
    print(json.dumps(event.model_dump(mode="json")), file=sys.stderr, flush=True)


def log_as_json() -> None:
    """Let the server's own log lines be events too."""

    class Line(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = "error" if record.levelno >= logging.ERROR else "info"
            why = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                why = f"{why.strip()} {record.exc_info[1]!r}"
            say(None, Event(event=record.name, why=why, level=level))

    for name in ("uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [Line()], False
        logger.setLevel(logging.INFO)


def read_token(path: Path | None) -> str | None:
    """The token in a file or in `ZSEI_TOKEN`; None when neither is given.

    Raises:
        UsageError: The file cannot be read.
    """
    if path is None:
        return os.environ.get("ZSEI_TOKEN") or None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file is a text file, and {path} is not ({error}).") from None


def _analysts(job: Job, workers: Workers) -> Callable[[RunFolder], Analyst]:
    def open_one(folder: RunFolder) -> Analyst:
        # Torch comes with these, and a service is listening before it is needed.
        from zsei.checkpoint.analyst import Analyst as OfRun
        from zsei.checkpoint.worker import OpenWorker
        from zsei.engines.open import open_engine

        own = replace(job, run=folder.path.name)
        engine = open_engine(
            workers.engine, OpenWorker(job=own), workers=workers.count, address=workers.address,
            priority="normal", threads=job.threads,
        )  # fmt: skip
        try:
            return OfRun(folder, own, engine)
        except BaseException:
            engine.close()
            raise

    return open_one


def _snapshots(
    checkpoints: Checkpoints,
) -> Callable[[StructuralAnalysisRequest], Snapshot]:
    def snapshot(request: StructuralAnalysisRequest) -> Snapshot:
        path = checkpoints.find(request.checkpoint.weights)
        return replace(snapshot_of(checkpoints.folder, request), path=path)

    return snapshot


def _refusal(job: Job, request: StructuralAnalysisRequest, why: str) -> StructuralPruningDecision:
    run, epoch = request.checkpoint.run, request.checkpoint.epoch
    name = f"d-{digest(['refused', run, epoch, request.request_id, why])}"
    epochs = job.config.elesh.structured_pruning.safety_schedule.epochs
    return StructuralPruningDecision(
        decision_id=name,
        idempotency_key=f"{epoch}::{name}:conservative",
        request_id=request.request_id,
        run=run,
        epoch=epoch,
        mode=request.parameters.mode,
        safety=SafetyValidation(phase=phase_of(epoch, epochs)),
        depth="none",
        confidence=0.0,
        fallbacks=(why,),
        rejection_reason=why,
    )
