"""What a parent and its worker say to each other: a kind, a number and a pickle, over a socket."""

import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Literal

Kind = Literal[b"w", b"t", b"r", b"d", b"e", b"m"]
WORK: Kind = b"w"
"""To the worker: what its work is made with. The number: bytes of memory it may take."""
TASK: Kind = b"t"
"""To the worker: a task. The number: bytes of memory it may take."""
READY: Kind = b"r"
"""From the worker: its work is made. The number in all answers: bytes of its peak memory."""
DONE: Kind = b"d"
"""From the worker: what the work returned."""
ERROR: Kind = b"e"
"""From the worker: what it raised, as text."""
MEMORY: Kind = b"m"
"""From the worker: what it raised for want of memory, as text."""

_HEADER = struct.Struct("!cQQ")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message."""

    kind: bytes
    number: int
    payload: bytes | bytearray


class Channel:
    """A socket on which neither side ever waits for the other to read or write.

    The parent serves many workers from one thread, so a worker that stops in the middle of a large
    message must hold up nothing but itself.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.socket = sock
        self._out: deque[memoryview] = deque()
        self._header = bytearray()
        self._payload: bytearray | None = None
        self._filled = 0

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    def put(self, message: Message) -> None:
        """Put a message up for sending."""
        header = _HEADER.pack(message.kind, message.number, len(message.payload))
        self._out.extend(memoryview(part) for part in (header, message.payload) if part)

    def send(self) -> None:
        """Send what the socket takes now.

        Raises:
            OSError: Nobody is at the other end.
        """
        while self._out:
            try:
                sent = self.socket.send(self._out[0])
            except BlockingIOError:
                return
            part = self._out.popleft()
            if sent < len(part):
                self._out.appendleft(part[sent:])

    def receive(self) -> list[Message]:
        """The messages that have become whole.

        Raises:
            ConnectionError: Nobody is at the other end, and no whole message is left.
        """
        found: list[Message] = []
        try:
            while True:
                if self._payload is None:
                    self._begin()
                elif self._filled < len(self._payload):
                    view = memoryview(self._payload)[self._filled :]
                    self._filled += self._took(self.socket.recv_into(view))
                if self._payload is not None and self._filled == len(self._payload):
                    kind, number, _ = _HEADER.unpack(self._header)
                    found.append(Message(kind=kind, number=number, payload=self._payload))
                    self._header, self._payload = bytearray(), None
        except BlockingIOError:
            return found
        except OSError:
            if found:
                return found  # the end is still there next time
            raise

    def _begin(self) -> None:
        part = self.socket.recv(_HEADER.size - len(self._header))
        self._took(len(part))
        self._header += part
        if len(self._header) == _HEADER.size:
            self._payload = bytearray(_HEADER.unpack(self._header)[2])
            self._filled = 0

    def _took(self, count: int) -> int:
        if not count:
            raise ConnectionResetError("nobody is at the other end")
        return count


def say(sock: socket.socket, message: Message) -> None:
    """Send a message and wait until it is sent: the worker's side."""
    sock.sendall(_HEADER.pack(message.kind, message.number, len(message.payload)))
    sock.sendall(message.payload)


def hear(sock: socket.socket) -> Message | None:
    """Wait for a message: the worker's side. None when there will be no more."""
    header = _read(sock, _HEADER.size)
    if header is None:
        return None
    kind, number, length = _HEADER.unpack(header)
    payload = _read(sock, length)
    return None if payload is None else Message(kind=kind, number=number, payload=payload)


def _read(sock: socket.socket, length: int) -> bytearray | None:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        count = sock.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return data
