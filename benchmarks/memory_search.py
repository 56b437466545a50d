"""How long a question takes to find its passages once 10,000 findings are in memory.

Makes a memory of made-up analyses with the real embedder's space, builds the index, and times
`search.retrieve` warm, part by part, beside exact search over the same vectors.

    python benchmarks/memory_search.py [--findings 10000] [--questions 60] [--home FOLDER]
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zsei.memory import index, kept, matrix
from zsei.memory.embedder import SentenceEmbedder
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Finding, Measurement

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "memory"))
from memory_records import make_record

PER_RUN = 100
WHAT = ("heads attend alike", "rank is lost inside this block", "it takes more operations than its "
        "effect is worth", "the value hardly changes the stream", "neurons are never active",
        "gradients vanish here", "attention looks at one token only", "memory peaks in this layer",
        "the longest path runs through it", "the norm rescales what the block wrote")  # fmt: skip
WHERE = ("early", "middle", "late", "first", "last", "deepest", "widest", "narrowest")
WHEN = ("prose", "code", "questions", "long inputs", "short inputs", "images", "speech", "tables")
ASKED = ("why are heads {0}?", "where is information lost on {1}?", "which {0} layers waste time?",
         "what goes wrong with gradients on {1}?", "why was the {0} layer kept?")  # fmt: skip


def analysis(number: int) -> AnalysisRecord:
    """An analysis with a hundred findings, no two of whose sentences are the same."""
    record = make_record(number, model=f"model-{number}", layers=4, heads=4)
    rng = random.Random(number)
    findings = tuple(
        Finding.make(
            code="information-bottleneck",
            components=(f"encoder.layer.{rng.randrange(4)}/head.{rng.randrange(4)}",),
            severity=rng.random(),
            evidence=(Measurement(name="effective_rank", value=rng.random(), n=64),),
            message=f"{rng.choice(WHAT)} in the {rng.choice(WHERE)} part on {rng.choice(WHEN)}, "
            f"group {number}, place {place}",
        )
        for place in range(PER_RUN)
    )
    return record.model_copy(update={"findings": findings, "id": f"run-{number:04d}"})


def timed(work: Callable[[str], object], questions: Sequence[str]) -> dict[str, float]:
    """Milliseconds: median, 95th percentile, CPU in the mean."""
    wall = []
    started = time.process_time()
    for question in questions:
        before = time.perf_counter()
        work(question)
        wall.append(1000 * (time.perf_counter() - before))
    cpu = 1000 * (time.process_time() - started) / len(questions)
    p95 = statistics.quantiles(wall, n=20)[-1]
    return {"median": statistics.median(wall), "p95": p95, "cpu": cpu}


def main() -> None:
    """Measure and print one JSON object."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--findings", type=int, default=10_000)
    options.add_argument("--questions", type=int, default=60)
    options.add_argument("--home", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        memory = Memory(chosen.home or Path(temporary), embedder=SentenceEmbedder())
        for number in range(len(memory.runs()), chosen.findings // PER_RUN):
            memory.add(analysis(number))
        started = time.process_time()
        coverage = refresh(memory)
        built = time.process_time() - started
        rng = random.Random(0)
        questions = [
            rng.choice(ASKED).format(rng.choice(WHERE), rng.choice(WHEN))
            for _ in range(chosen.questions)
        ]
        retrieve(memory, "once, so that all is warm")
        embedder = memory.embedder
        asked = {question: embedder.embed([question])[0] for question in questions}
        name = embedder.fingerprint
        kept.close()

        def exact(question: str) -> dict[str, float]:
            return matrix.nearest(matrix.load(memory, name), asked[question], None, None, 50)

        def recall(question: str) -> float:
            every = matrix.nearest(matrix.load(memory, name), asked[question], None, None, 10**9)
            tenth = sorted(every.values(), reverse=True)[9] - 1e-6
            found = index.query(memory, name, asked[question])[:10]
            return sum(every[passage] >= tenth for passage in found) / 10

        before = time.perf_counter()
        index.query(memory, name, asked[questions[0]])
        opening = 1000 * (time.perf_counter() - before)
        report = {
            "passages": coverage.chunks,
            "notes": coverage.notes,
            "embed and build, s of CPU": built,
            "first query of a process, ms": opening,
            "retrieve, ms": timed(lambda q: retrieve(memory, q), questions),
            "embedding the question, ms": timed(lambda q: embedder.embed([q]), questions),
            "Chroma, ms": timed(lambda q: index.query(memory, name, asked[q]), questions),
            "exact, ms": timed(exact, questions),
            "recall at 10 of Chroma, equal passages being equal": float(
                np.mean([recall(q) for q in questions])
            ),
        }  # fmt: skip
        print(json.dumps(report, indent=1))
        kept.close()


if __name__ == "__main__":
    main()
