"""Who may ask, and how much at once: looked at before anything else is."""

import hmac
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zsei.errors import UsageError
from zsei.service.checkpoints import too_large
from zsei.service.problems import Refused

HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
"""A name or an address, and perhaps a port."""
SHORTEST_TOKEN = 16


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to be reached from elsewhere without a token.

    Raises:
        UsageError: Before anything listens.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or " " in token):
        raise UsageError(
            f"A token is at least {SHORTEST_TOKEN} ASCII characters without spaces, and this one "
            "is not; `python -c 'import secrets; print(secrets.token_urlsafe(32))'` makes one."
        )
    if token is None and not is_loopback(host):
        raise UsageError(
            f"Whoever reaches the service can read and fill it, so beyond this machine it needs a "
            f"token, and --host is {host}; set ZSEI_TOKEN or --token-file, or stay on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware: the name we are called by, the token, the size of what comes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        largest: int,
        unlimited: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Guard an application.

        Args:
            app: What is guarded.
            token: Needed from everybody; None lets everybody in who calls this machine by a
                loopback name, so that a page in a browser cannot reach it by another (DNS
                rebinding).
            largest: Bytes of a body.
            unlimited: Beginnings of paths that look after their bodies themselves.
            headers: Put into every answer.
        """
        self._app, self._token, self._largest = app, token, largest
        self._unlimited = tuple(unlimited)
        self._headers = [
            (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        send = self._with_headers(send)
        limited = not scope["path"].startswith(self._unlimited or ("\0",))
        try:
            self._check(headers)
            length = headers.get(b"content-length", b"0")
            if limited and (not length.isdigit() or int(length[:20]) > self._largest):
                raise too_large(self._largest)
        except Refused as refused:
            await refused.response()(scope, receive, send)
            return
        await self._app(scope, self._counted(receive) if limited else receive, send)

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        return sending

    def _check(self, headers: dict[bytes, bytes]) -> None:
        if self._token is None:
            name = HOST.fullmatch(headers.get(b"host", b"").decode("latin-1"))
            if name is None or not is_loopback(name[1]):
                raise Refused(
                    421, "Without a token this service answers to `127.0.0.1` and `localhost` only."
                )
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        fits = hmac.compare_digest(given.strip(), self._token.encode())
        if scheme.lower() != b"bearer" or not fits:
            raise Refused(
                401,
                "Send the service's token as `Authorization: Bearer TOKEN`; "
                + ("none came." if not given else "another one came."),
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _counted(self, receive: Receive) -> Receive:
        """Bodies that say no length are counted as they come."""
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._largest:
                raise too_large(self._largest)
            return message

        return counted
