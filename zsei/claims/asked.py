"""How a check of claims was asked for, so that it can be asked for again."""

import shlex
from dataclasses import dataclass

from zsei.timing.decision import ROUNDS


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of a check."""

    path: str
    device: str | None = None
    """None takes the file's."""
    threads: int | None = None
    rounds: int = ROUNDS

    def command(self, only: str = "") -> str:
        """The command line; of one claim, where it is named."""
        words = ["zsei", "claims", self.path]
        words += ["--only", only] if only else []
        words += ["--device", self.device] if self.device else []
        words += ["--threads", str(self.threads)] if self.threads else []
        words += ["--rounds", str(self.rounds)] if self.rounds != ROUNDS else []
        return shlex.join(words)
