"""How long a question takes with ten thousand findings in memory, once warm, by kind of question.

    python benchmarks/ask_speed.py [FINDINGS]

Builds analyses by multiplying the made-up ones of the tests, embeds them with the sentence embedder
that ships, asks each of the two hundred questions of the tests and prints percentiles.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "memory")]

from questions_asked import questions  # noqa: E402
from questions_world import TODAY, World, made_up  # noqa: E402

from zsei.memory import Memory, ask_memory, cards_of, refresh  # noqa: E402
from zsei.records import AnalysisRecord  # noqa: E402
from zsei.resources import load_cards  # noqa: E402
from zsei.settings import Settings  # noqa: E402


def copies(records: tuple[AnalysisRecord, ...], findings: int) -> list[AnalysisRecord]:
    """As many analyses as it takes, older copies under other ids, with findings of their own."""
    made, number = 0, 0
    found = []
    while made < findings:
        record = records[number % len(records)]
        turn = number // len(records)
        number += 1
        made += len(record.findings)
        if turn:
            timings = record.timings.model_copy(
                update={"created": f"{2025 - turn % 20}{record.timings.created[4:]}"}
            )
            renamed = tuple(
                f.model_copy(
                    update={
                        "id": f"{f.id}{turn:04d}",
                        "message": f"{f.message} Seen in batch {turn}.",
                    }
                )
                for f in record.findings
            )
            record = record.model_copy(
                update={
                    "id": f"{record.id[:-4]}{turn:04d}",
                    "timings": timings,
                    "findings": renamed,
                }
            )
        found.append(record)
    return found


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    base = made_up()
    records = copies(base, wanted)
    pages = cards_of(load_cards(Settings()))
    with tempfile.TemporaryDirectory() as home:
        memory = Memory(Path(home))
        began = time.perf_counter()
        for record in records:
            memory.add(record)
        memory.learn(pages)
        stored = time.perf_counter() - began
        coverage = refresh(memory)
        findings = sum(len(record.findings) for record in records)
        print(f"{findings} findings of {len(records)} analyses, {coverage.chunks} passages")
        print(f"stored in {stored:.0f} s, embedded in {time.perf_counter() - began - stored:.0f} s")
        began = time.perf_counter()
        ask_memory("why do gradients shrink?", memory, knowledge=pages, today=TODAY)
        print(f"first question {1000 * (time.perf_counter() - began):.0f} ms")
        took: dict[str, list[float]] = {}
        spent: list[float] = []
        for question in questions(World(base)):
            began, cpu = time.perf_counter(), time.process_time()
            ask_memory(question.text, memory, knowledge=pages, today=TODAY)
            took.setdefault(question.kind, []).append(1000 * (time.perf_counter() - began))
            spent.append(1000 * (time.process_time() - cpu))
    everything = [each for times in took.values() for each in times]
    for kind, times in {**took, "all": everything, "all, CPU": spent}.items():
        p95 = quantiles(times, n=20)[-1]
        print(f"{kind:12} n {len(times):3}  p50 {np.median(times):6.1f} ms  p95 {p95:6.1f} ms  "
              f"max {max(times):6.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
