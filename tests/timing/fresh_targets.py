"""What the tests of `zsei.timing.fresh` run in processes of their own."""

import os
import signal
import sys
import time
from pathlib import Path

from zsei.errors import SpeedUpRefused


def told(number: int) -> dict[str, object]:
    """Prints, which must not mix with the answer, and says what it was given."""
    print("noise on the output")
    return {
        "number": number,
        "variable": os.environ.get("PLANTED"),
        "torch": "torch" in sys.modules,
    }


def threads() -> list[int]:
    """Torch's threads of both kinds."""
    import torch

    return [torch.get_num_threads(), torch.get_num_interop_threads()]


def hold(megabytes: int) -> int:
    """Fills so much memory with ones, outside torch's allocator, and lets it go."""
    return len(bytearray(b"\x01") * (megabytes << 20)) >> 20


def killed() -> None:
    """As the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def left() -> None:
    """Ends without an answer, with a last word."""
    sys.stderr.write("the last word\n")
    sys.stderr.flush()
    os._exit(7)


def raises() -> None:
    """An error of the function's own."""
    raise RuntimeError("planted")


def refuses() -> None:
    """An error of ZSEI's."""
    raise SpeedUpRefused("No such backend here.")


def no_json() -> float:
    """Something that JSON does not have."""
    return float("nan")


def sleeps(marker: str) -> None:
    """Starts a child, says who it is, and outlasts any patience."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    Path(marker).write_text(str(child), encoding="utf-8")
    time.sleep(60)
