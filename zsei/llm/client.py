"""The HTTP client for a server of one's own that speaks OpenAI's protocol.

litellm's own client follows redirects, so that a question could end at somebody else's, asks a
proxy even for this very machine, and reads whatever comes, however long. It has no option against
the first and the last, but takes a client that it is given.
"""

from collections.abc import AsyncIterator
from typing import Any

MOST_BYTES = 8_000_000
"""Bytes of a reply that are read; an answer of a hundred thousand tokens is under a million."""


class ReplyTooLong(Exception):
    """The server sends more than an answer can be, or packs it so that nobody can tell."""


def client_for(base: str, key: str | None, *, local: bool) -> Any:
    """An `openai.AsyncOpenAI`; it must live on one event loop.

    Args:
        base: Address of the server.
        key: Sent with every request.
        local: Whether the server is on this machine, so that no proxy is asked.

    Raises:
        openai.OpenAIError: There is no key.
    """
    from httpx import AsyncByteStream, Limits, Response
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    class Bounded(AsyncByteStream):
        """A reply's body that ends in an error once it is too long."""

        def __init__(self, body: AsyncByteStream) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            read = 0
            async for part in self._body:
                read += len(part)
                if read > MOST_BYTES:
                    raise ReplyTooLong
                yield part

        async def aclose(self) -> None:
            await self._body.aclose()

    async def bound(response: Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ReplyTooLong  # it was not asked for, and little may unpack to very much
        if isinstance(response.stream, AsyncByteStream):
            response.stream = Bounded(response.stream)

    return AsyncOpenAI(
        base_url=base,
        api_key=key,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(
            follow_redirects=False,
            trust_env=not local,
            headers={"Accept-Encoding": "identity"},
            limits=Limits(max_keepalive_connections=0),  # nobody closes what is kept
            event_hooks={"response": [bound]},
        ),
    )
