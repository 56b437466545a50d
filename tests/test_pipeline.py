"""The whole way from a model to verdicts, on every family, and what can be done with a record."""

import json
import math
import random
from collections.abc import Callable

import networkx as nx
import pytest
import torch
from torch import nn

import zsei
from tests import factories
from tests.hostile import HOSTILE
from tests.trained import TRAINED
from zsei import pipeline
from zsei.cli import codes
from zsei.errors import LLMRefused, LLMTimeout, ModelError, UsageError
from zsei.llm import LLMRequest, ScriptedLLM
from zsei.llm.scripted import Script
from zsei.records import AnalysisRecord
from zsei.settings import Settings
from zsei.subject.program import model_hash

FAMILIES = (
    "bert", "gpt2", "llama", "mixtral", "t5", "vit", "resnet", "patchtst", "mlp", "lstm", "encoder",
)  # fmt: skip
WITHOUT_HEADS = {"resnet", "mlp", "lstm"}


def small(home, **changed) -> Settings:
    """Settings that run every stage on little data."""
    values = {
        "home": home, "samples": 24, "batch_size": 8, "probes": 2, "ablation_sample": 4,
        "max_proposals": 2, "rounds": 1, "bootstrap": 200, "min_channels": 4, "min_heads": 1,
        "random_paths": 5, "halves": False,
    }  # fmt: skip
    return Settings(**(values | changed))


class Branching(nn.Module):
    """Control flow that depends on data: it cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        return self.second(hidden) if float(hidden.detach().sum()) > 0 else hidden[:, :3]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            f, marks=pytest.mark.long if f in ("llama", "mixtral", "patchtst", "t5", "vit") else ()
        )
        for f in FAMILIES
    ],
)
def test_every_family_goes_from_model_to_verdict(family: str, tmp_path) -> None:
    model, data = getattr(factories, f"tiny_{family}")()
    before = model_hash(model), model.training, [p.requires_grad for p in model.parameters()]
    record = zsei.analyze(model, data, settings=small(tmp_path))

    after = model_hash(model), model.training, [p.requires_grad for p in model.parameters()]
    assert after == before
    assert record.provenance.fidelity == "program"
    assert not record.failures
    assert nx.is_directed_acyclic_graph(record.graph)
    assert nx.has_path(record.graph, next(iter(record.graph)), "output")
    kinds = {component.kind for component in record.components}
    assert ("head" in kinds) == (family not in WITHOUT_HEADS)
    assert len(record.verdicts) == len(record.proposals)
    assert all(verdict.reason for verdict in record.verdicts)
    assert record.interpretations
    difference = record.validation.instrumentation[0].value
    assert difference is not None
    assert difference <= 1e-6
    again = AnalysisRecord.model_validate_json(record.model_dump_json())
    assert again == record


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "cnn" else pytest.mark.long) for n in sorted(TRAINED)],
)
def test_really_trained_models_are_ranked_well_and_made_smaller(name: str, tmp_path) -> None:
    model, data = TRAINED[name]()
    settings = small(
        tmp_path, samples=64, batch_size=16, ablation_sample=12, max_proposals=3, rounds=2,
        bootstrap=500,
    )  # fmt: skip
    record = zsei.analyze(model, data, settings=settings)
    checks = {
        check.kind: check.spearman
        for check in record.validation.criteria
        if check.criterion == "output sensitivity" and check.spearman is not None
    }
    assert checks
    assert max(checks.values()) >= 0.7
    smaller = [v for v in record.verdicts if v.outcome == "accepted"]
    for verdict in smaller:
        sizes = [
            next(m.value for m in side if m.name == "parameters")
            for side in (verdict.before, verdict.after)
        ]
        assert sizes[1] < sizes[0]
    assert {v.outcome for v in record.verdicts} <= {"accepted", "rejected", "inapplicable"}


def test_shares_into_a_residual_join_sum_to_one(tmp_path) -> None:
    model, data = factories.tiny_bert()
    graph = zsei.analyze(model, data, settings=small(tmp_path, max_proposals=0)).graph
    joins = [node for node, kind in graph.nodes(data="kind") if kind in ("residual", "attention")]
    assert joins
    for join in joins:
        shares = [share for _, _, share in graph.in_edges(join, data="share")]
        assert math.isclose(sum(shares), 1.0, abs_tol=1e-5)


@pytest.mark.parametrize("family", ["mlp", pytest.param("gpt2", marks=pytest.mark.long)])
def test_two_runs_with_one_seed_differ_only_in_timings(family: str, tmp_path) -> None:
    model, data = getattr(factories, f"tiny_{family}")()
    records = [
        zsei.analyze(model, data, settings=small(tmp_path / str(i), halves=True)) for i in (0, 1)
    ]
    texts = [json.dumps(record.without_timings(), sort_keys=True) for record in records]
    assert texts[0] == texts[1]
    assert records[0].id == records[1].id
    other = zsei.analyze(model, data, settings=small(tmp_path / "2", seed=5))
    assert other.id != records[0].id


def test_a_model_that_cannot_be_exported_is_analysed_by_its_modules(tmp_path) -> None:
    record = zsei.analyze(Branching(), torch.randn(24, 6), settings=small(tmp_path))
    assert record.provenance.fidelity == "modules"
    assert any("export" in note for note in record.validation.notes)
    assert {"first", "second"} <= set(record.graph)
    assert record.measured("first", "rms") is not None
    assert record.proposals == ()


def wasteful() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A classifier of which half the hidden neurons are dead, with its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        model[0].bias[:20] = -100.0
    x = torch.randn(128, 8)
    with torch.no_grad():
        return model, (x, model(x).argmax(1))


def test_apply_removes_what_was_accepted_and_only_on_a_copy(tmp_path) -> None:
    model, data = wasteful()
    settings = small(tmp_path, samples=128, batch_size=16, max_proposals=6)
    record = zsei.analyze(model, data, settings=settings)
    assert record.accepted()

    smaller = zsei.apply(record, model)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (smaller, model)]
    assert sizes[0] < sizes[1] == 8 * 40 + 40 + 40 * 3 + 3
    x = torch.randn(64, 8)
    with torch.no_grad():
        agreement = (smaller(x).argmax(1) == model(x).argmax(1)).float().mean()
    assert agreement >= 0.9
    pipeline.save_model(pipeline.edit(record, model), tmp_path / "smaller")
    loaded = zsei.load(tmp_path / "smaller")
    with torch.no_grad():
        torch.testing.assert_close(loaded(x[:8]), smaller(x[:8]))


def test_apply_asks_for_no_minima_the_analysis_did_not_have(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model[0].bias[:6] = -100.0  # fewer stay than min_channels asks for by default
    record = zsei.analyze(model, torch.randn(128, 8), settings=small(tmp_path, samples=128))
    assert record.accepted()
    assert zsei.apply(record, model)(torch.randn(2, 8)).shape == (2, 3)


def test_apply_refuses_another_model_and_unknown_proposals(tmp_path) -> None:
    model, data = wasteful()
    settings = small(tmp_path, samples=128, batch_size=16, max_proposals=2)
    record = zsei.analyze(model, data, settings=settings)
    with pytest.raises(ModelError, match="the very model"):
        zsei.apply(record, nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3)))
    with pytest.raises(UsageError, match="p-nothing"):
        zsei.apply(record, model, strategies=["p-nothing"])
    with pytest.raises(ModelError, match="Python object"):
        zsei.apply(record)


def test_every_accepted_bound_lies_inside_its_limit(tmp_path) -> None:
    model, data = wasteful()
    settings = small(tmp_path, samples=128, batch_size=16, max_proposals=8, rounds=2)
    record = zsei.analyze(model, data, settings=settings)
    outcomes = {verdict.outcome for verdict in record.verdicts}
    assert "accepted" in outcomes
    for verdict in record.verdicts:
        if verdict.outcome == "accepted":
            assert {stage.outcome for stage in verdict.stages} <= {"passed", "skipped"}
            assert verdict.bounds


def test_save_writes_four_files_that_read_back(tmp_path) -> None:
    model, data = factories.tiny_mlp()
    record = zsei.analyze(model, data, settings=small(tmp_path))
    files = pipeline.save(record, tmp_path / "out")
    assert sorted(path.name for path in files.values()) == [
        "flow.graphml", "flow.json", "record.json", "report.html",
    ]  # fmt: skip
    assert AnalysisRecord.model_validate_json(files["record"].read_text()) == record
    graph = nx.read_graphml(files["graphml"])
    assert set(graph) == set(record.graph)
    assert set(graph.edges) == set(record.graph.edges)


def test_analysis_is_remembered_and_can_be_asked_about(tmp_path) -> None:
    model, data = factories.tiny_encoder()
    settings = small(tmp_path)
    record = zsei.analyze(model, data, settings=settings)
    answer = zsei.ask("which heads matter most?", settings=settings)
    assert answer.citations
    assert {citation.run for citation in answer.citations} == {record.id}


SPOKEN = {
    "interpretations", "objections", "proposals", "verdicts", "combined", "rounds", "failures",
    "provenance", "validation", "means", "fitted", "id",
}  # fmt: skip
"""Parts of a record that may say more when a language model speaks; all others are numbers."""


def chatter(kind: str) -> Callable[[LLMRequest], Script]:
    """A language model that answers garbage of one kind, and never anything that fits."""
    chance = random.Random(kind)

    def answer(request: LLMRequest) -> Script:
        if kind == "bytes":
            return chance.randbytes(chance.randrange(300))
        if kind == "hostile":
            return chance.choice(HOSTILE)
        if kind == "wrong type":
            return json.dumps({"accepted": "all", "limit": 1.0, "verdict": "accepted"})
        if kind == "refusal":
            return LLMRefused("It declined.")
        return LLMTimeout("It took too long.")

    return answer


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> AnalysisRecord:
    """The analysis without a language model."""
    torch.manual_seed(0)
    return zsei.analyze(*factories.tiny_mlp(), settings=small(tmp_path_factory.mktemp("home")))


@pytest.mark.parametrize("kind", ["bytes", "hostile", "wrong type", "refusal", "silence"])
def test_a_language_model_that_talks_nonsense_changes_no_number(
    kind: str, silent: AnalysisRecord, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = factories.tiny_mlp()
    plain = silent
    talking = ScriptedLLM(chatter(kind))
    monkeypatch.setattr("zsei.llm.line.connect", lambda settings: talking if settings.llm else None)
    record = zsei.analyze(model, data, settings=small(tmp_path, llm="some/model"))
    assert talking.requests
    for field in set(type(record).model_fields) - SPOKEN - {"timings"}:
        assert getattr(record, field) == getattr(plain, field), field
    assert record.verdicts == plain.verdicts
    assert record.proposals == plain.proposals
    assert (record.rounds, record.combined) == (plain.rounds, plain.combined)
    assert (record.validation, record.means, record.fitted) == (
        plain.validation, plain.means, plain.fitted,
    )  # fmt: skip
    assert record.interpretations == plain.interpretations
    assert record.objections == plain.objections
    assert {failure.stage for failure in record.failures} == {"advice"}
    assert (codes.of_record(record), codes.of_record(plain)) == (4, 0)


def test_a_strategist_has_turns_of_its_own_and_each_is_kept(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for one candidate a turn; its critic objects to each."""
    asked: list[str] = []

    def answer(request: LLMRequest) -> Script:
        if request.answer_name not in ("StrategyPlan", "Critique"):
            return LLMRefused("Not this one.")
        data = json.loads(request.prompt.split("<data>\n")[1].split("\n</data>")[0])
        if request.answer_name == "Critique":
            held = [
                {"about": proposal["id"], "kind": "risk", "text": "This may well fail."}
                for proposal in data["proposals"]["shown"]
            ]
            return json.dumps({"text": "Mind the risk.", "objections": held})
        first = data["candidates"]["shown"][:1]
        asked.extend(candidate["id"] for candidate in first)
        choices = [{"candidate": one["id"], "rationale": "Worth a try."} for one in first]
        return json.dumps({"text": "One at a time.", "choices": choices, "variants": []})

    monkeypatch.setattr("zsei.llm.line.connect", lambda settings: ScriptedLLM(answer, "some/model"))
    model, data = wasteful()
    settings = small(tmp_path, samples=128, batch_size=16, max_proposals=1, llm="some/model")
    record = zsei.analyze(model, data, settings=settings)
    assert [turn.voice for turn in record.rounds] == ["rules", *["some/model"] * (len(asked))]
    assert len(asked) >= 2
    assert [turn.proposal_ids for turn in record.rounds[1:]] == [(name,) for name in asked]
    assert {o.about for o in record.objections if o.voice == "some/model"} == set(asked)
    told = {interpretation.id: interpretation for interpretation in record.interpretations}
    for turn in record.rounds[1:]:
        assert {told[name].agent for name in turn.interpretation_ids} == {"strategist", "critic"}
    assert zsei.apply(record, model)(data[0][:2]).shape == (2, 3)
    assert AnalysisRecord.model_validate_json(record.model_dump_json()) == record


def test_a_spent_budget_leaves_out_proposals_and_says_so(tmp_path) -> None:
    model, data = wasteful()
    settings = small(tmp_path, samples=128, batch_size=16, budget=1e-6)
    record = zsei.analyze(model, data, settings=settings)
    assert record.proposals
    assert {verdict.outcome for verdict in record.verdicts} == {"inconclusive"}
    assert all("budget" in verdict.reason for verdict in record.verdicts)
