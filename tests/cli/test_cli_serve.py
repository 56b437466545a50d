"""`zsei serve`: what is refused before it starts, and a process that is killed in the middle."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import tiny_mlp
from safetensors.torch import save

from zsei.cli import main
from zsei.service.serve import listen, only_one, read_token

MODEL = "factories:tiny_mlp"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", MODEL, *arguments]) == 2
    return capsys.readouterr().err


def test_what_is_refused_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ["--checkpoints", str(tmp_path / "checkpoints")]
    assert "beyond this machine it needs a token" in refused(capsys, *folder, "--host", "0.0.0.0")
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setenv("ZSEI_TOKEN", "short")
    assert "at least 16" in refused(capsys, *folder)
    monkeypatch.delenv("ZSEI_TOKEN")
    missing = str(tmp_path / "missing")
    assert "--token-file is a text file" in refused(capsys, *folder, "--token-file", missing)
    config = tmp_path / "c.yaml"
    config.write_text("elesh: {sketch_widht: 3}")
    assert "sketch_width" in refused(capsys, *folder, "--config", str(config))
    (tmp_path / "file").write_text("")
    assert "is a folder" in refused(capsys, "--checkpoints", str(tmp_path / "file"))


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        folder = str(tmp_path / "checkpoints")
        assert "Choose another --port" in refused(capsys, "--checkpoints", folder, "--port", port)
    with listen("127.0.0.1", 0) as free:
        assert free.getsockname()[1] > 0


def test_one_service_at_a_time_uses_a_home(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_one(home):
        folder = str(tmp_path / "checkpoints")
        assert "One service at a time" in refused(capsys, "--checkpoints", folder, "--port", "0")


def test_a_model_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no.such:model", "--checkpoints", str(tmp_path / "c")]) == 1
    assert "no.such:model" in capsys.readouterr().err


def test_the_token_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSEI_TOKEN", "from-the-environment")
    (tmp_path / "token").write_text("from-a-file-with-a-line-end\n")
    assert read_token(tmp_path / "token") == "from-a-file-with-a-line-end"
    assert read_token(None) == "from-the-environment"


class Process:
    """`zsei serve` as a user starts it."""

    def __init__(self, folder: Path) -> None:
        self.errors = (folder / "errors.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zsei", "serve", MODEL, "--checkpoints",
             str(folder / "checkpoints"), "--port", "0", "--workers", "1"],
            cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=os.environ | {"ZSEI_HOME": str(folder / "home")},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " at http" in line, (folder / "errors.log").read_text()
        self.address = line.split(" at http://")[1].split()[0]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        asked = urllib.request.Request(
            f"http://{self.address}{path}", data=data, method=method,
            headers={"content-type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(30)
        self.process.stdout.close()  # type: ignore[union-attr]
        self.errors.close()


@contextmanager
def serving(folder: Path) -> Iterator[Process]:
    process = Process(folder)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.end(signal.SIGTERM)


def request(weights: str, epoch: int) -> dict[str, Any]:
    return {
        "request_id": f"r-{epoch}",
        "idempotency_key": f"{epoch}:x:r-{epoch}",
        "checkpoint": {"run": "killed", "epoch": epoch, "weights": weights},
        "architecture": {"model_class": "Sequential", "parameters": 891,
                         "original_parameters": 891},
    }  # fmt: skip


@pytest.mark.long
def test_a_killed_service_loses_nothing_and_keeps_nothing_half(tmp_path: Path) -> None:
    content = save(tiny_mlp()[0].state_dict())
    uploads = tmp_path / "checkpoints" / "uploads"
    with serving(tmp_path) as first:
        assert first.ask("PUT", "/v1/checkpoints/a.safetensors", content)[0] == 201
        assert first.ask("POST", "/v1/requests", request("uploads/a.safetensors", 1))[0] == 202
        assert first.ask("POST", "/v1/requests", request("uploads/a.safetensors", 2))[0] == 202
        half = http.client.HTTPConnection(first.address)
        half.putrequest("PUT", "/v1/checkpoints/b.safetensors")
        half.putheader("Content-Length", str(len(content)))
        half.endheaders(content[:100])
        deadline = time.monotonic() + 20
        while len(list(uploads.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.end(signal.SIGKILL)  # in the middle of an analysis and of an upload
        half.close()
    assert not list((tmp_path / "home" / "runs" / "killed").glob("decisions/*"))
    with serving(tmp_path) as second:
        assert second.ask("GET", "/v1/contracts")[0] == 200  # it listens before it has cleared up
        assert [p.name for p in uploads.iterdir()] == ["a.safetensors"]
        found: dict[int, Any] = {}
        deadline = time.monotonic() + 120
        while len(found) < 2:
            assert time.monotonic() < deadline
            for epoch in (1, 2):
                status, answer = second.ask("GET", f"/v1/decisions/r-{epoch}")
                assert status in (200, 202)
                if status == 200:
                    found[epoch] = answer
            time.sleep(0.2)
        assert [found[epoch]["depth"] for epoch in (1, 2)] == ["full", "full"]
        again = second.ask("POST", "/v1/requests", request("uploads/a.safetensors", 1))
        assert again == (200, found[1])
        status, _ = second.ask("PUT", "/v1/checkpoints/b.safetensors", content)
        assert status == 201
    lines = (tmp_path / "errors.log").read_text().splitlines()
    assert {json.loads(line)["event"] for line in lines} >= {"serving", "began", "answered"}


def test_the_request_tells_the_size_of_its_model() -> None:
    assert sum(p.numel() for p in tiny_mlp()[0].parameters()) == 891
