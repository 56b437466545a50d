"""The tiny encoder, from a factory that can be made to take its time."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import factories

WAIT = "ZSEI_TEST_WAIT"
"""Environment variable with the path of a file: as long as it is there, the factory waits."""


def encoder() -> Any:
    """As `factories.tiny_encoder`, once nothing says to wait."""
    while Path(os.environ.get(WAIT, "nowhere")).exists():
        print("the factory waits", file=sys.stderr, flush=True)
        time.sleep(0.2)
    return factories.tiny_encoder()
