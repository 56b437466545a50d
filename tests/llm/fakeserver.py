"""An OpenAI-compatible server on the loopback address that misbehaves as the model's name says."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {"component": "layer.0/head.1", "score": 0.5}


class FakeServer:
    """What it was asked, by scenario, and where it listens."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.closing = threading.Event()


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": None}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = self.state.bodies[body["model"]]
        asked.append({**body, "authorization": self.headers.get("Authorization", "")})
        SCENARIOS[body["model"]](self, len(asked), asked[-1])

    def send(self, status: int, value: Any, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, header in headers.items():
            self.send_header(name.replace("_", "-"), header)
        self.end_headers()
        self.wfile.write(data)

    def hang(self) -> None:
        self.state.closing.wait(20)

    def drip(self) -> None:
        data = json.dumps(completion(json.dumps(GOOD))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            for byte in data:
                if self.state.closing.wait(0.05):
                    return
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        except OSError:
            pass  # the client has gone, as it should


def _says(*contents: Any, **options: Any) -> Callable[..., None]:
    """Answers with these contents in order, the last one for ever."""

    def scenario(handler: _Handler, count: int, body: dict[str, Any]) -> None:
        content = contents[min(count, len(contents)) - 1]
        if not isinstance(content, str):
            content = json.dumps(content)
        handler.send(200, completion(content, **options))

    return scenario


def _fails(status: int, value: Any, **headers: str) -> Callable[..., None]:
    return lambda handler, count, body: handler.send(status, value, **headers)


def _once(first: Callable[..., None]) -> Callable[..., None]:
    """Fails the first time, then answers well."""

    def scenario(handler: _Handler, count: int, body: dict[str, Any]) -> None:
        (first if count == 1 else _says(GOOD))(handler, count, body)

    return scenario


def _without(name: str, message: str) -> Callable[..., None]:
    """Refuses requests that carry a parameter."""

    def scenario(handler: _Handler, count: int, body: dict[str, Any]) -> None:
        if name in body:
            handler.send(400, error(message))
        else:
            handler.send(200, completion(json.dumps(GOOD)))

    return scenario


def _unauthorised(handler: _Handler, count: int, body: dict[str, Any]) -> None:
    key = body["authorization"].removeprefix("Bearer ")
    handler.send(401, error(f"Incorrect API key provided: {key}. Find yours in your account."))


SCENARIOS: dict[str, Callable[..., None]] = {
    "ok": _says(GOOD),
    "invalid-json": _says("I would say about half."),
    "invalid-then-ok": _says('{"component": ', GOOD),
    "fenced": _says("Here it is:\n```json\n" + json.dumps(GOOD) + "\n```\nAnything else?"),
    "prose": _says("Sure! " + json.dumps(GOOD) + " I hope it helps."),
    "violation": _says({**GOOD, "secret plan": 1, "score": "high"}),
    "nan": _says('{"component": "layer.0/head.1", "score": NaN}'),
    "unknown-component": _says({"component": "layer.9/head.9<script>", "score": 0.5}),
    "empty": _says(""),
    "rate-limited-once": _once(_fails(429, error("slow down"), Retry_After="0.1")),
    "rate-limited": _fails(429, error("slow down"), Retry_After="0.1"),
    "rate-limited-long": _fails(429, error("slow down"), Retry_After="3600"),
    "rate-limited-date": _fails(
        429, error("slow down"), Retry_After="Fri, 01 Jan 2999 00:00:00 GMT"
    ),
    "quota": _fails(429, error("You exceeded your current quota: insufficient_quota")),
    "server-error": _fails(500, error("oops")),
    "server-error-once": _once(_fails(503, error("starting"))),
    "bad-gateway": _fails(502, b"<html>bad gateway</html>"),
    "not-json": _fails(200, b"welcome to the hotel network"),
    "no-choices": _fails(200, {**completion("x"), "choices": []}),
    "no-model": _fails(404, error("the model does not exist")),
    "odd-content": _fails(200, completion([{"type": "image"}])),  # type: ignore[arg-type]
    "hang": lambda handler, count, body: handler.hang(),
    "drip": lambda handler, count, body: handler.drip(),
    "truncated": _says('{"component": "layer.0', finish="length"),
    "truncated-but-valid": _says(GOOD, finish="length"),
    "refusal": _fails(200, completion(None, refusal="I cannot help with that.")),
    "filtered": _says("", finish="content_filter"),
    "unauthorised": _unauthorised,
    "schema-refused": _without("response_format", "response_format is not supported here"),
    "temperature-refused": _without("temperature", "Unsupported value: 'temperature'"),
}  # fmt: skip


@contextmanager
def serving() -> Iterator[FakeServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    state = FakeServer(f"http://127.0.0.1:{server.server_port}/v1")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"state": state})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
