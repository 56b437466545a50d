"""What strangers may try: names, bytes, tokens, hosts, and bodies that mean two things."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostile import HOSTILE
from served import Served, request, served, weights
from starlette.testclient import TestClient

from zsei.errors import UsageError
from zsei.service.guard import check_exposure

JSON = {"content-type": "application/json"}


@pytest.fixture
def s(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        found.upload()
        yield found


def everything_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


NAMES = (
    "../x.safetensors", "..%2fx.safetensors", "a/b.safetensors", ".hidden.safetensors", "x.pt",
    "x.safetensors.exe", "", "/etc/passwd", "a\\b.safetensors", "x\0.safetensors",
    "a" * 200 + ".safetensors", ".upload-1", "x.safetensors\n",
)  # fmt: skip


ALLOWED = ("x.pt", "x.safetensors.exe")
"""Odd, but names of runs all the same."""


@pytest.mark.parametrize("names", [NAMES, pytest.param(HOSTILE, marks=pytest.mark.long)])
def test_no_name_leads_out_of_the_folder(s: Served, tmp_path: Path, names: tuple[str]) -> None:
    before = everything_below(tmp_path)
    asked = request().model_dump(mode="json")

    def status(changed: dict[str, str]) -> int:
        checkpoint = asked["checkpoint"] | changed
        return s.client.post("/v1/requests", json=asked | {"checkpoint": checkpoint}).status_code

    for name in names:
        answer = s.client.put(f"/v1/checkpoints/{quote(name, safe='')}", content=weights())
        assert answer.status_code in (404, 405, 422), name
        for path in (name, f"uploads/{name}", f"uploads/../{name}"):
            assert status({"weights": path}) in (404, 422), path
        if name not in ALLOWED:
            assert status({"run": name}) == 422, name
    assert everything_below(tmp_path) == before
    assert status({"run": ALLOWED[0]}) == 202


def test_links_that_lead_out_are_not_followed(s: Served, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.safetensors").write_bytes(weights())
    folder = tmp_path / "checkpoints"
    (folder / "link.safetensors").symlink_to(outside / "secret.safetensors")
    (folder / "linked").symlink_to(outside)
    (folder / "round").symlink_to(folder / "round")
    (folder / "inside.safetensors").symlink_to(folder / "uploads" / "digits.safetensors")
    for name in ("link.safetensors", "linked/secret.safetensors", "linked", "round", "uploads/.."):
        assert s.send(request(weights=name)).status_code == 404
    assert s.send(request(weights="inside.safetensors")).status_code == 202


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422), (b"\0" * 8, 422), (b"\xff" * 100, 422), (weights()[:-1], 422),
        (weights() + b"x", 422), (b"PK\x03\x04" + b"0" * 50, 422), (b"x" * 1_000_001, 413),
    ],
)  # fmt: skip
def test_an_upload_is_whole_or_not_there(
    s: Served, tmp_path: Path, content: bytes, status: int
) -> None:
    answer = s.upload("new.safetensors", content)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    in_pieces = s.client.put(
        "/v1/checkpoints/new.safetensors", content=iter([content[:9], content[9:]])
    )
    assert in_pieces.status_code == status  # also where no length is said before
    assert everything_below(tmp_path / "checkpoints" / "uploads") == {"digits.safetensors"}


def test_a_name_stands_for_its_bytes(s: Served) -> None:
    answer = s.upload(content=weights(2.0))
    assert answer.status_code == 409
    assert "take another name" in answer.json()["detail"]


def asgi(app: Any, receive: Any, path: str, method: str = "PUT") -> int:
    """Status of a request whose body comes from `receive`."""
    import asyncio

    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
    }  # fmt: skip

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "checkpoints/new.safetensors"), ("POST", "requests")]
)
def test_a_sender_that_goes_away_leaves_nothing(
    s: Served, tmp_path: Path, method: str, path: str
) -> None:
    steps = iter(
        [
            {"type": "http.request", "body": weights()[:40], "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(steps)

    assert asgi(s.app, receive, f"/v1/{path}", method) == 400
    assert everything_below(tmp_path / "checkpoints" / "uploads") == {"digits.safetensors"}


def test_an_upload_that_stands_still_ends(tmp_path: Path) -> None:
    import asyncio

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(30)
        raise AssertionError("nobody waits so long")

    with served(tmp_path, patience=0.05) as found:
        assert asgi(found.app, receive, "/v1/checkpoints/new.safetensors") == 408
    assert everything_below(tmp_path / "checkpoints" / "uploads") == set()


BODIES: list[tuple[bytes, int]] = [
    (b"", 400), (b"{", 400), (b"null", 422), (b"[]", 422), (b'"text"', 422), (b"1e999", 422),
    (b'{"a": 1, "a": 1}', 400), (b'{"a": NaN}', 400), (b'{"a": -Infinity}', 400),
    (b"[" * 100_000 + b"]" * 100_000, 400), (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    (b"\xff\xfe{}", 400), ('{"a": "ü"}'.encode("latin-1"), 400), (b"\xef\xbb\xbf{}", 400),
    (b'{"request_id": "\\ud800"}', 422), (b'{"epoch": ' + b"9" * 10_000 + b"}", 400),
    (b"1" + b" " * 9_000_000, 413),
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/requests", "/v1/applied"])
def test_a_body_means_one_thing(s: Served, path: str) -> None:
    for body, status in BODIES:
        answer = s.client.post(path, content=body, headers=JSON)
        assert answer.status_code == status, (body[:50], answer.text[:300])
        assert answer.json()["detail"]
        assert "Traceback" not in answer.text


def test_numbers_that_are_none_are_refused_wherever_they_stand(s: Served) -> None:
    text = request().model_dump_json()
    for field in ('"accuracy":null', '"loss":null', '"timeout_seconds":300.0'):
        assert field in text
        for number in ("NaN", "Infinity", "1e999", "true", '"1"'):
            changed = text.replace(field, f"{field.partition(':')[0]}:{number}")
            answer = s.client.post("/v1/requests", content=changed, headers=JSON)
            assert answer.status_code in (400, 422), (field, number)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=x"]
)
def test_a_page_cannot_send_messages_unasked(s: Served, kind: str) -> None:
    """What a browser sends to other sites without asking first is none of these types."""
    answer = s.client.post(
        "/v1/requests", content=request().model_dump_json(), headers={"content-type": kind}
    )
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:8321", 200), ("localhost:1", 200), ("[::1]:8321", 200),
        ("evil.example", 421), ("evil.example:8321", 421), ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421), ("", 421), ("[::1].evil.example", 421),
            ("127.0.0.2", 200), ("user@127.0.0.1", 421), ("127.0.0.1,evil.example", 421),
    ],
)  # fmt: skip
def test_another_name_for_this_machine_is_refused(s: Served, host: str, status: int) -> None:
    """DNS rebinding: a page whose name was made to point here."""
    assert s.client.get("/v1/contracts", headers={"host": host}).status_code == status


TOKEN = "correct-horse-battery-staple"
ALMOST: tuple[dict[str, Any], ...] = (
    {"authorization": f"Bearer {TOKEN}x"}, {"authorization": TOKEN},
    {"authorization": f"Basic {TOKEN}"}, {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": "Bearer"}, {"authorization": "Bearer \xff".encode("latin-1")},
    {"cookie": f"token={TOKEN}"}, {"x-token": TOKEN},
)  # fmt: skip


def test_a_token_is_needed_everywhere(tmp_path: Path) -> None:
    with served(tmp_path, token=TOKEN) as found:
        # No lifespan of its own: the service runs already.
        client = TestClient(found.app, base_url="http://service.example")
        paths = [*client_paths(found), "/docs", "/nothing"]
        for path in paths:
            assert client.get(path).status_code == 401
            for headers in ALMOST if path == paths[0] else ALMOST[:1]:
                answer = client.get(f"{path}?token={TOKEN}&access_token={TOKEN}", headers=headers)
                assert answer.status_code == 401, (path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert TOKEN not in answer.text
        good = {"authorization": f"bearer {TOKEN}"}
        assert client.get("/v1/contracts", headers=good).status_code == 200
        described = client.get("/openapi.json", headers=good).json()
        assert described["security"] == [{"token": []}]


def client_paths(found: Served) -> list[str]:
    return [path.replace("{", "").replace("}", "") for path in found.app.openapi()["paths"]]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.x"])
def test_beyond_this_machine_a_token_is_needed(host: str) -> None:
    with pytest.raises(UsageError, match="needs a token"):
        check_exposure(host, None)
    check_exposure(host, TOKEN)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "a b" * 10, "ü" * 20])
def test_a_poor_token_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="token_urlsafe"):
        check_exposure("127.0.0.1", token)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, None)


def test_faults_of_ours_show_no_trace(tmp_path: Path) -> None:
    with served(tmp_path) as found:
        found.service.desk.tally.figures = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        client = TestClient(found.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        answer = client.get("/health/elesh/worker-1/structured_analysis")
    assert answer.status_code == 500
    assert answer.json()["detail"].endswith("(ZeroDivisionError); see its log.")
    assert "File" not in answer.text


def test_damaged_files_of_a_run_stop_nothing(tmp_path: Path) -> None:
    box = tmp_path / "runs" / "digits" / "requests"
    box.mkdir(parents=True)
    (box / "000001.json").write_bytes(b'{"half": ')
    (box / "000002.json").write_bytes(request(2).model_dump_json().encode())
    (tmp_path / "runs" / "digits" / "decisions").mkdir()
    (tmp_path / "runs" / "digits" / "decisions" / "000002.json").write_bytes(b"\xff")
    with served(tmp_path) as found:
        found.upload()
        assert found.decided("digits-2").epoch == 2  # its decision was damaged, and is made anew
        assert found.client.get("/metrics").status_code == 200
