"""The rule-based voice: plain, from the record, and never struck by its own check."""

import ast
from pathlib import Path

import pytest
from advice.advice_records import HEADS, candidates, findings, m, record, verdict

import zsei
from zsei.advice.advise import criticise, interpret, propose
from zsei.advice.facts import Facts
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.advice.order import gain
from zsei.records import AnalysisRecord, Check, Finding, Proposal
from zsei.resources import load_cards
from zsei.settings import Settings

SETTINGS = Settings()
CARDS = load_cards(SETTINGS)


def test_it_speaks_on_every_topic_and_says_that_it_is_rules() -> None:
    advice = interpret(record(), CARDS)
    topics = [told.agent for told in advice.interpretations]
    assert topics == ["architecture", "bottlenecks", "redundancy", "critical-paths", "trust"]
    assert {told.voice for told in advice.interpretations} == {"rules"}
    assert "Rules wrote this, no language model." in advice.interpretations[0].text
    assert (advice.failures, advice.degraded) == ((), False)


def test_it_says_what_the_record_holds() -> None:
    text = "\n".join(told.text for told in interpret(record(), CARDS).interpretations)
    for expected in (
        "36,924 parameters, with 2 layers and 8 heads",
        "encoder.layer.0/mlp has the largest share of the operations: 31.9 %",
        f"{HEADS[0]} with ablation effect 0.0412",
        "encoder.layer.0/mlp: share of the operations 31.9 %, criticality share 8.12 %.",
        "joint effect 0.0187, interaction 0.0147",
        f"{HEADS[3]}: ablation effect 0.0009.",
        "share of the path 28.8 %, path length 4",
        "rank lost 50 %",
        "(could not be told)",
        "For heads, these rankings agree with exact ablation and are validated: output sensitivity "
        "(Kendall 0.857, Spearman 0.952).",
        "For channels, these rankings stray from exact ablation and are not validated: magnitude "
        "(Kendall 0.31, Spearman 0.44).",
        "For layers, these rankings could not be compared with exact ablation: taylor.",
        CARDS.knowledge["redundant-heads"].meaning,
    ):
        assert expected in text


def test_it_says_when_a_test_disagrees() -> None:
    made = record()
    refuted = Check(name="exact-ablation", outcome="disagrees", message="No effect.")
    general = Check(
        name="half-samples", about="flow graph", outcome="inconclusive", message="Too few."
    )
    doubted = made.model_copy(
        update={
            "findings": (made.findings[0].model_copy(update={"checks": (refuted,)}),),
            "validation": made.validation.model_copy(update={"checks": (general,)}),
        }
    )
    told = interpret(doubted, load_cards(Settings()))
    said = " ".join(i.text for i in told.interpretations)
    assert "Tested by exact ablation, this does not hold up." in said
    assert "tested itself, and this could not be told: flow graph by split samples." in said
    assert sum(i.struck for i in told.interpretations) == 0


def unstruck(record: AnalysisRecord, proposals: tuple[Proposal, ...] = ()) -> None:
    told = interpret(record, CARDS).interpretations
    told += propose(record, proposals, CARDS, SETTINGS).interpretations
    for interpretation in told:
        assert interpretation.struck == 0, [c for c in interpretation.claims if not c.holds]
        assert interpretation.text
        assert all(claim.holds for claim in interpretation.claims)


def test_nothing_it_says_is_struck() -> None:
    unstruck(record(), candidates())


@pytest.mark.parametrize("value", [0.0, 1.0, 0.9951, 0.004, 1e-7, 123456.789, -0.25, 3, 10**7])
@pytest.mark.parametrize("unit", ["share", "count", "", "share of width", "bytes per sample"])
def test_nothing_is_struck_whatever_the_number(value: float, unit: str) -> None:
    names = ("flops_share", "some_new_measurement", "rank_cap")
    spoken = Finding.make(
        code="some-new-code",
        components=("encoder.layer.0/mlp", "encoder.layer.1/mlp", *HEADS),
        severity=0.3,
        evidence=tuple(m(name, value, unit) for name in names),
        message="",
    )
    promised = Proposal.make(
        strategy="prune-neurons",
        components=("encoder.layer.0/mlp",),
        expected=(m("flops_removed_share", value, unit), m("predicted_loss", value, unit)),
    )
    unstruck(record(findings=(*findings(), spoken)), (promised,))


def test_a_record_with_nothing_in_it() -> None:
    empty = record(findings=(), measurements={}, components=(), validation=record().validation)
    unstruck(empty)
    unstruck(empty.model_copy(update={"validation": type(record().validation)()}))


def test_meanings_hold_no_number_and_no_comparison() -> None:
    """They are said of every model, so nothing in them may need a measurement."""
    facts = Facts(record())
    reader = Reader(facts, CARDS)
    for card in (card for card in CARDS.knowledge.values() if card.kind == "finding"):
        grounded = ground(card.meaning, facts, reader)
        assert (grounded.struck, grounded.claims) == (0, ()), card.id


def test_candidates_are_ordered_by_gain_per_loss() -> None:
    advice = propose(record(), candidates(), CARDS, SETTINGS)
    assert [p.strategy for p in advice.proposals] == [
        "prune-neurons", "prune-heads", "remove-layer", "prune-channels",
    ]  # fmt: skip
    assert [p.priority for p in advice.proposals] == [0, 1, 2, 3]
    assert all(p.source == "rules" for p in advice.proposals)
    (told,) = advice.interpretations
    assert told.text.startswith("Rules ordered the candidates")
    assert (
        "parameters removed 195, share of the operations removed 0.75 %, predicted loss 0.0004."
        in told.text
    )


def test_the_order_agrees_with_the_formula() -> None:
    """Gain: the mean of the shares of FLOPs and parameters that go; over the predicted loss."""
    whole = record()
    ratios = {}
    for candidate in candidates():
        parameters, flops, loss = (measurement.value for measurement in candidate.expected)
        assert parameters is not None
        assert flops is not None
        expected = (parameters / whole.provenance.parameters + flops) / 2
        assert gain(candidate, whole) == pytest.approx(expected)
        ratios[candidate.id] = expected / loss if loss is not None else -1.0
    ordered = [p.id for p in propose(whole, candidates(), CARDS, SETTINGS).proposals]
    assert ordered == sorted(ratios, key=lambda name: -ratios[name])


def test_only_the_words_and_the_place_of_a_candidate_change() -> None:
    before = {p.id: p for p in candidates()}
    for proposal in propose(record(), candidates(), CARDS, SETTINGS).proposals:
        same = {"rationale": "", "priority": 0}
        assert proposal.model_copy(update=same) == before[proposal.id]


def test_what_the_rules_object_to() -> None:
    """A check that disagrees, samples that do not suffice, an unproven ranking, what was tried."""
    made = findings()
    refuted = Check(name="exact-ablation", outcome="disagrees", message="No effect.")
    unsure = Check(name="half-samples", outcome="inconclusive", message="Too few.")
    layer, heads, neurons, channels = candidates()
    tried = Proposal.make(
        strategy="prune-neurons", components=neurons.components, params={"units": [3]},
        expected=(m("parameters_removed", 100, "count"),),
    )  # fmt: skip
    doubted = record(
        findings=(made[0].model_copy(update={"checks": (unsure,)}),
                  made[1].model_copy(update={"checks": (refuted,)})),
        proposals=(tried,), verdicts=(verdict(tried),),
    )  # fmt: skip
    advice = criticise(doubted, candidates(), CARDS)
    held = {(objection.about, objection.kind): objection.text for objection in advice.objections}
    assert held == {
        (made[0].id, "too few samples"): "The samples were too few to confirm "
        "computational-bottleneck at encoder.layer.0/mlp and encoder.layer.1/mlp.",
        (made[1].id, "contradicted by a check"): "A check of the analysis contradicts that "
        f"{HEADS[1]} and {HEADS[3]} show redundant-heads.",
        (heads.id, "contradicted by a check"): f"It rests on {made[1].id}, which a check of the "
        "analysis contradicts.",
        (neurons.id, "tried before"): f"prune-neurons at encoder.layer.0/mlp was tried as "
        f"{tried.id}, which goes no further, and the gate rejected it. Its divergence was 0.234.",
        (channels.id, "not supported"): "No ranking of channels is validated, so that the wrong "
        "ones may go.",
        (channels.id, "risk"): "Nobody predicted what prune-channels at embeddings costs.",
        (layer.id, "not supported"): "No ranking of layers is validated, so that the wrong ones "
        "may go.",
    }
    assert {(o.agent, o.voice) for o in advice.objections} == {("critic", "rules")}
    assert [p.id for p in advice.proposals] == [p.id for p in candidates()]  # all are objected to


def test_an_edit_that_goes_less_far_than_a_rejected_one_is_not_tried_before() -> None:
    neurons = candidates()[2]
    tried = Proposal.make(
        strategy="prune-neurons", components=neurons.components,
        expected=(m("parameters_removed", 9_000, "count"),),
    )  # fmt: skip
    known = record(proposals=(tried,), verdicts=(verdict(tried),))
    held = criticise(known, (neurons,), CARDS).objections
    assert {objection.kind for objection in held} == set()


def test_objections_move_a_proposal_behind_the_others() -> None:
    layer, heads, neurons, channels = candidates()
    advice = criticise(record(), (channels, layer, neurons, heads), CARDS)
    assert [p.id for p in advice.proposals] == [neurons.id, heads.id, channels.id, layer.id]
    assert [p.priority for p in advice.proposals] == [0, 1, 2, 3]


def test_what_was_judged_is_not_proposed_again() -> None:
    first, *others = candidates()
    judged = record(proposals=(first,), verdicts=(verdict(first),))
    advice = propose(judged, candidates(), CARDS, SETTINGS)
    assert {p.id for p in advice.proposals} == {p.id for p in others}


def test_no_more_than_the_settings_allow() -> None:
    few = Settings(max_proposals=2)
    assert len(propose(record(), candidates(), CARDS, few).proposals) == 2
    assert propose(record(), (), CARDS, SETTINGS).proposals == ()


def test_the_same_record_gives_the_same_words() -> None:
    first, second = (interpret(record(), CARDS) for _ in range(2))
    assert first == second
    ids = [told.id for told in first.interpretations]
    assert len(set(ids)) == len(ids)


def test_every_name_that_is_measured_is_explained() -> None:
    """Whatever the program measures stands in `knowledge/metrics.yaml`."""
    package = Path(zsei.__file__).parent
    missing = set()
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Measurement":
                for keyword in node.keywords:
                    name = keyword.value
                    if keyword.arg == "name" and isinstance(name, ast.Constant):
                        missing |= {name.value} - set(CARDS.metrics)
    assert missing == set()


def test_every_finding_code_has_a_card() -> None:
    from zsei.analyzers import ANALYZERS

    assert {part.code for part in ANALYZERS} <= set(CARDS.knowledge)
