"""The summary's claims: the file says all of them, and is checked whole on a small forecaster."""

import re
from pathlib import Path

import pytest

from zsei.claims.check import check_claims
from zsei.claims.read import read_claims

FOLDER = Path(__file__).parent.parent.parent / "examples" / "claims"
FILE = FOLDER / "neuro-divergent.yaml"


def test_what_the_summary_claims_stands_in_the_file_with_its_words() -> None:
    claims = {claim.id: claim for claim in read_claims(FILE).claims}
    assert all(claim.quote and claim.source for claim in claims.values())
    ranges = {
        "flash-attention-speed": (2, 4), "flash-attention-memory": (5000, None),
        "vectorisation-speed": (2, 4), "mixed-precision-speed": (1.5, 2),
        "mixed-precision-memory": (50, None), "combined-speed": (71, 78.75),
        "throughput": (71_000, 78_750), "latency": (None, 10),
        "differences-of-exact-steps": (None, 1e-5),
    }  # fmt: skip
    assert {name: (claims[name].at_least, claims[name].at_most) for name in ranges} == ranges
    table = claims["parallel-scaling"].table
    assert {cores: (row.at_least, row.at_most) for cores, row in table.items()} == {
        2: (1.8, 1.9), 4: (3.5, 3.8), 8: (6.5, 7.5), 16: (10, 14),
    }  # fmt: skip
    assert claims["combined-speed-training"].use == "training"


@pytest.mark.long
def test_the_file_is_checked_from_end_to_end_in_small(tmp_path: Path) -> None:
    script = (FOLDER / "forecasting.py").read_text()
    small = script.replace("layers: int = 3, width: int = 128", "layers: int = 1, width: int = 16")
    small = small.replace("hourly(8000), steps=10", "hourly(3600), steps=2")
    (tmp_path / "forecasting.py").write_text(small)
    text = FILE.read_text().replace("batch: 32, samples: 128", "batch: 8, samples: 32")
    text = text.replace("length: 4096", "length: 256")
    (tmp_path / FILE.name).write_text(text)
    assert small != script
    # Compiled steps of training take minutes and are tested beside the training speed-ups.
    slow = ("vectorisation-speed-training", "combined-speed-training")
    ids = [claim.id for claim in read_claims(FILE).claims if claim.id not in slow]
    record = check_claims(tmp_path / FILE.name, rounds=8, only=ids)
    said = {outcome.id: outcome for outcome in record.outcomes}
    assert record.model_class == "Forecaster"
    assert record.objective == "regression"
    # What no clock decides is known: eager attention holds two tables of scores, sdpa none.
    memory = said["flash-attention-memory"]
    assert memory.verdict == "not held"
    assert 10 < (memory.value or 0) < 1000
    assert said["parallel-scaling@16"].verdict in ("not measurable here", "held", "not held")
    assert said["combined-speed"].verdict != "held"
    assert said["throughput"].verdict != "held" or (said["throughput"].value or 0) > 71_000
    mixed = said["differences-of-mixed-precision"]
    assert (mixed.verdict, (mixed.value or 0) > 1e-5) == ("not held", True)
    for outcome in record.outcomes:
        assert outcome.reason
        assert re.search(rf"--only {re.escape(outcome.id)}", outcome.command)
        assert (outcome.value is None) == (
            outcome.verdict == "not measurable here"
        ) or outcome.reason
