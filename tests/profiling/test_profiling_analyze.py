"""An analysis that was asked for a profile holds it, and is the same analysis."""

import pytest
from profile_cases import SMALL, random, transformer
from zoo import WIDTH

import zsei
from zsei.profiling.record import ProfileRecord


@pytest.mark.long
def test_an_analysis_holds_the_profile_that_was_asked_for() -> None:
    data = {"sequence": random(16, 16, WIDTH)}
    settings = SMALL.model_copy(update={"max_proposals": 0, "halves": False, "random_paths": 0})
    plain = zsei.analyze(transformer(), data, settings=settings)
    profiled = zsei.analyze(transformer(), data, settings=settings, profile=True)
    assert plain.timings.profile is None
    assert profiled.timings.profile is not None
    found = ProfileRecord.model_validate(profiled.timings.profile)
    assert found.model_hash == profiled.provenance.model_hash
    assert {part.kind for part in found.parts} >= {"attention", "mlp", "norm"}
    # What clocks said is no part of what an analysis is.
    assert profiled.id == plain.id
