"""How often a file of claims gets the same verdicts on a busy machine.

Checks the file N times, each time in a process of its own, while other processes keep cores busy
for random stretches of about two seconds, and prints for every claim how often its commonest
verdict came out. A verdict that went from held to not held, or back, is marked: that is an error
of the measurement, while one that went to *not decided* says that the truth lies near the limit.

    python benchmarks/claims_stability.py FILE [--runs 20] [--load 1] [--rounds N] [--device cpu]

Exit code 0 when every claim got one verdict in all runs, 1 when one did not.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsei.timing.fresh import run_fresh

BUSY = """
import random, sys, time
import numpy as np
generator = random.Random(int(sys.argv[1]))
matrix = np.random.default_rng(0).standard_normal((256, 256))
while True:
    end = time.monotonic() + generator.expovariate(0.5)
    while time.monotonic() < end:
        matrix @ matrix
    time.sleep(generator.expovariate(0.5))
"""
"""Works and rests for about two seconds each, on one core."""
CONTRARY = {"held", "not held"}


def once(path: str, device: str, options: dict[str, Any]) -> dict[str, Any]:
    """Check the file once: claim -> verdict and the ends of its interval."""
    from zsei.claims.check import check_claims

    record = check_claims(path, device=device, **options)
    return {
        outcome.id: {
            "verdict": outcome.verdict,
            "value": outcome.value,
            "low": outcome.interval and outcome.interval.low,
            "high": outcome.interval and outcome.interval.high,
            "rounds": outcome.interval and outcome.interval.n,
        }
        for outcome in record.outcomes
    }


@contextmanager
def load(processes: int, seed: int) -> Iterator[None]:
    """Keep so many cores busy, on and off."""
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(seed + number)], env=environment)
        for number in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def agreement(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every claim: its verdicts by how often they came, and the spread of what was measured."""
    found = []
    for claim in runs[0]:
        verdicts = Counter(run[claim]["verdict"] for run in runs)
        values = [run[claim]["value"] for run in runs if run[claim]["value"] is not None]
        found.append(
            {
                "claim": claim,
                "agreed": verdicts.most_common(1)[0][1],
                "runs": len(runs),
                "verdicts": dict(verdicts.most_common()),
                "contrary": verdicts.keys() >= CONTRARY,
                "least": min(values, default=None),
                "most": max(values, default=None),
            }
        )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """One line for every claim."""
    lines = []
    for row in found:
        said = ", ".join(f"{verdict} {n}" for verdict, n in row["verdicts"].items())
        spread = "" if row["least"] is None else f"  {row['least']:.4g} to {row['most']:.4g}"
        mark = "  CONTRARY" if row["contrary"] else ""
        lines.append(f"{row['claim']:<40} {row['agreed']}/{row['runs']}  {said}{spread}{mark}")
    return "\n".join(lines)


def main() -> None:
    """Check, print, and say by the exit code whether all runs agreed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("file", type=Path)
    options.add_argument("--runs", type=int, default=20)
    options.add_argument("--load", type=int, default=1, help="processes that keep cores busy")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int)
    options.add_argument("--rounds", type=int)
    options.add_argument("--only", action="append", default=[], help="claim to check; repeatable")
    options.add_argument("--timeout", type=float, default=3600, help="seconds of one run")
    options.add_argument("--out", type=Path, help="JSON of all runs")
    chosen = options.parse_args()
    if chosen.runs < 1:
        options.error("--runs is at least 1")
    given: dict[str, Any] = {"only": chosen.only}
    given |= {k: v for k in ("threads", "rounds") if (v := getattr(chosen, k)) is not None}
    arguments = {"path": str(chosen.file), "device": chosen.device, "options": given}
    runs = []
    for number in range(chosen.runs):
        begin = time.monotonic()
        with load(chosen.load, seed=1000 * number):
            runs.append(
                run_fresh("claims_stability:once", arguments, timeout=chosen.timeout).result
            )
        took = time.monotonic() - begin
        verdicts = Counter(claim["verdict"] for claim in runs[-1].values())
        print(f"run {number + 1}: {dict(verdicts)} in {took:.0f} s", file=sys.stderr, flush=True)
    found = agreement(runs)
    print(table(found))
    if chosen.out:
        chosen.out.write_text(json.dumps({"claims": found, "runs": runs}, indent=1))
    sys.exit(0 if all(row["agreed"] == row["runs"] for row in found) else 1)


if __name__ == "__main__":
    main()
