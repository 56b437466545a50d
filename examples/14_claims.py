"""Claims about a model's speed, each held against a measurement.

A file says what was promised: so many times faster, so many milliseconds, so much less memory, the
same outputs. Every claim is measured on this machine and comes back held, not held, not decided
(its 99 % interval straddles what is claimed) or not measurable here, with the reason. At the
command line: `zsei claims FILE`; a real file stands in `examples/claims/`.
"""

# %% What was promised of the sentence encoder that comes with ZSEI.
from pathlib import Path

import zsei

PROMISED = """
title: What was promised of MiniLM
model: demo:minilm
workload: {batch: 4, samples: 32, length: 16, threads: 1}
claims:
  - id: attention-at-length
    kind: memory
    of: attention
    at: {length: 512}
    steps: [{speedup: attention-backend, params: {backend: sdpa}}]
    at_least: 10
    quote: ten times less memory for attention
  - id: hundredfold
    kind: combined
    steps: [{speedup: attention-backend, params: {backend: sdpa}}, {speedup: inference-mode}]
    at_least: 100
    quote: a hundred times faster, because 10 x 10 = 100
  - id: same-outputs
    kind: difference
    steps: [{speedup: attention-backend, params: {backend: sdpa}}]
    at_most: 1e-5
  - id: many-cores
    kind: scaling
    table: {4096: 4000}
"""
path = Path("promised.yaml")
path.write_text(PROMISED, encoding="utf-8")

# %% Measure it. Ranges such as "2 to 4 times" claim their lower end; nothing is ever multiplied.
record = zsei.check_claims(path, rounds=20)
for outcome in record.outcomes:
    print(f"{outcome.id}: claimed {outcome.claimed}; {outcome.verdict}: {outcome.reason}")

# %% The parts of a combined claim were measured alone; their product only stands beside it.
for measurement in record.outcome("hundredfold").measurements:
    if measurement.name in ("speed_up_alone", "product_of_parts") and measurement.value:
        print(f"  {measurement.name} {measurement.value:.2f} ({measurement.note})")

# %% A page for people.
from zsei.report.claims_files import save_claims

print("page:", save_claims(record, "claims")["report"])
