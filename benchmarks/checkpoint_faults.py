"""Analyses of checkpoints under faults of every kind: hang, kill, memory, files, numbers, disk.

    python -m benchmarks.checkpoint_faults --analyses 200 --engine local --workers 2

A GPT of two layers is trained for as many epochs. A share of its checkpoints meets a fault, all
kinds alike often: workers hang, are killed, grow or raise; files are cut short, damaged, gone or of
another model; weights or gradients are NaN; the disk is full. Approved cuts are carried out, every
fourth is put back, and the analysis is ended and begun again every 25 epochs. Every approved cut is
judged once more, by a subject that is made from nothing.

Held: no exception leaves the analysis, at least 95 % of the analyses end with a result or with the
documented fallback, and no cut was approved that is not accepted when it is judged again.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "checkpoint")]

from faults_case import (  # noqa: E402
    MEMORY,
    Faulty,
    as_documented,
    plan,
    start_faulty,
    table,
)

from zsei.engines.open import open_engine  # noqa: E402


def run(folder: Path, *, analyses: int, engine: str, workers: int, share: float) -> Faulty:
    """The whole run."""
    phases = {
        "validation_epochs": analyses // 20,
        "conservative_epochs": analyses // 4,
        "moderate_epochs": analyses // 4,
        "aggressive_epochs": analyses,
    }
    faulty = start_faulty(
        folder,
        lambda make: open_engine(engine, make, workers=workers, priority="normal"),
        run={"memory_gigabytes": MEMORY, "decide_every": 8, "target_sparsity": 0.2},
        elesh={
            "layers_per_worker": 2,
            "sketch_width": 2000,
            "sketch_depth": 3,
            "statistical_samples": 50,
            "analysis_timeout": 20.0,
            "structured_pruning": {
                "channel_analysis": {"min_channels_per_layer": 4},
                "safety_schedule": phases,
            },
        },
    )
    cuts = 0
    for epoch, fault in enumerate(plan(analyses, share), start=1):
        begin = time.monotonic()
        faulty.checkpoint(epoch, fault)
        if epoch % 25 == 0:
            faulty.restart()
        if len(faulty.approved) > cuts:
            cuts = len(faulty.approved)
            faulty.judge_last()
            if cuts % 4 == 0:
                faulty.put_back(epoch + 1)
        good = as_documented(fault, faulty.rows[-1][1])
        word = "as documented" if good else f"NOT AS DOCUMENTED: {faulty.rows[-1][1]}"
        print(f"{epoch:4} {fault or '-':20} {time.monotonic() - begin:6.1f} s  {word}", flush=True)
    return faulty


def main() -> int:
    """Run it, and say whether the figures hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--analyses", type=int, default=200)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.5, help="of checkpoints with a fault")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faulty = run(
            Path(folder), analyses=given.analyses, engine=given.engine, workers=given.workers,
            share=given.share,
        )  # fmt: skip
        faulty.engine.close()
        print(table(faulty))
    good = sum(as_documented(fault, row) for fault, row in faulty.rows) / len(faulty.rows)
    raised = any(isinstance(row, Exception) for _, row in faulty.rows)
    return 0 if good >= 0.95 and not raised and not faulty.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
