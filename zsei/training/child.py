"""The process beside training that does the analysis: started, watched, and told when to leave."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from torch import nn

from zsei.checkpoint.job import Job
from zsei.checkpoint.run_folder import RunFolder
from zsei.subject.program import frozen_twin

RESTARTS = 3
"""How often a child that died is started again."""
OUTPUT = "analysis.log"
"""In the run's folder: what the child writes to its streams."""


class Child:
    """`python -m zsei.checkpoint.follow`, without a GPU.

    The job lies in a file without a name that the child reads as its standard input: training does
    not wait for it to be read, and a child that is started again finds it there.

    Args:
        folder: Of the run.
        job: What is analysed.
        arguments: More of the child's own, such as `--engine ray`.
        priority: `idle` takes only processor time that nothing else wants.
        command: What to run; the folder and the arguments follow.
    """

    def __init__(
        self,
        folder: RunFolder,
        job: Job,
        arguments: Sequence[str] = (),
        *,
        priority: Literal["idle", "normal"] = "idle",
        command: Sequence[str] = (sys.executable, "-m", "zsei.checkpoint.follow"),
    ) -> None:
        import cloudpickle

        self._folder = folder
        self._idle = priority == "idle"
        self._command = [*command, str(folder.path), "--priority", priority, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = -1
        self._job: IO[bytes] = tempfile.TemporaryFile(dir=folder.path)  # noqa: SIM115
        cloudpickle.dump(job, self._job)

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int | None:
        """Of the child that runs or ran last."""
        return None if self._process is None else self._process.pid

    def keep_alive(self) -> bool:
        """Start it where it does not run; whether it runs. Three restarts are all it gets."""
        if self.lives:
            return True
        if self.restarts >= RESTARTS:
            return False
        self.restarts += 1
        self._job.seek(0)
        with (self._folder.path / OUTPUT).open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=self._job,
                stdout=output,
                stderr=output,
                env=_environment(),
                close_fds=True,
            )
        if self._idle:
            _give_way(self._process.pid)
        return True

    def leave(self, seconds: float) -> bool:
        """Wait until it has left by itself; whether it has. It goes on alone where it has not."""
        self._job.close()
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.lives

    def stop(self) -> None:
        """End it now."""
        if self._process is not None and self.lives:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            if self.lives:
                self._process.kill()
                self._process.wait()


def as_it_begins(model: nn.Module) -> nn.Module:
    """A copy of a model for another process: in main memory, without what training put around it.

    The model itself is not touched.
    """
    twin = frozen_twin(model)
    for module in twin.modules():
        if "_original_forward" in vars(module):  # accelerate's mixed precision
            vars(module).pop("forward", None)
            vars(module).pop("_original_forward")
    return twin.cpu()


def _environment() -> dict[str, str]:
    # What can be imported here can be imported there; the GPU is training's.
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}


def _give_way(process: int) -> None:
    """Run it only when nobody else wants to; its own processes and threads inherit that."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, process, 19)
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))
