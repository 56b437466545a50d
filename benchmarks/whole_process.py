"""`zsei analyze demo:minilm --llm none` as a whole process: seconds and resident memory."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    seconds: float
    resident_megabytes: float
    exit_code: int


def measure() -> Result:
    """One run in a folder of its own, on all cores torch takes by itself."""
    command = [sys.executable, "-m", "zsei", "analyze", "demo:minilm", "--llm", "none", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        done = subprocess.run(
            [*command, "--out", "report"], cwd=folder, capture_output=True, check=False,
            env={k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")},
        )  # fmt: skip
        seconds = time.monotonic() - begin
    # ru_maxrss is in kibibytes on Linux: the largest child so far, which is this one.
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Result(seconds=seconds, resident_megabytes=resident, exit_code=done.returncode)


if __name__ == "__main__":
    print(measure())
