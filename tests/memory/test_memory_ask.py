"""Generated questions over generated analyses: exact numbers, right citations, honest refusals."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record
from oracles import asked as oracle

from zsei.errors import UsageError
from zsei.memory.ask import ask
from zsei.memory.embedder import EmbedderUnavailable
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Answer

OLD = make_record(0)
GPT = make_record(1, model="tiny-gpt2", family="gpt2", prefix="h", layers=4)
ROBERTA = make_record(2, model="acme/roberta-base", family="roberta", redundant_layers=False)
VIT = make_record(3, model="vit-digits", family="vit", prefix="blocks", heads=2)
EMPTY = make_record(4, model="tiny-llama", family="llama", prefix="model.layers", outcomes=())
NEW = make_record(5, created="2026-06-01T00:00:00Z")
RECORDS = (OLD, GPT, ROBERTA, VIT, EMPTY, NEW)
"""In the order in which they were made: the last is the newest."""

CARDS = (
    ("redundant-heads", "Redundant heads", "Heads that do the same; see the second paragraph."),
    ("output-sensitivity", "Output sensitivity", "How far outputs move without a component."),
    ("information-bottleneck", "Information bottleneck", "Where rank is lost."),
    ("low-rank", "Low-rank factorisation", "A linear layer becomes two thinner ones."),
)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    memory = Memory(tmp_path_factory.mktemp("asked"), embedder=HashEmbedder())
    for record in RECORDS:
        memory.add(record)
    return memory


def asked(memory: Memory, question: str) -> Answer:
    answer = ask(question, memory, knowledge=CARDS)
    assert answer.question == question
    assert answer.searched == len(RECORDS)
    assert answer.among == "analyses"
    assert answer.voice == "rules"
    return answer


def cited(answer: Answer) -> set[tuple[str, str | None]]:
    return {(citation.run, citation.finding) for citation in answer.citations}


def newest_with(component: str) -> AnalysisRecord:
    return next(r for r in reversed(RECORDS) if component in {c.id for c in r.components})


@pytest.mark.parametrize(
    ("component", "metric", "wording"),
    [
        ("encoder.layer.1/mlp", "effective_rank", "effective rank"),
        ("encoder.layer.2/head.3", "ablation_effect", "ablation effect"),
        ("h.3/mlp", "gradient_rms", "gradient RMS"),
        ("blocks.0/head.1", "attention_entropy", "attention entropy"),
        ("model.layers.1/head.0", "sensitivity", "output sensitivity"),
        ("h.2", "ablation_effect", "ablation_effect"),
        ("blocks.2/mlp", "dead_units", "number of dead units"),
    ],
)
def test_lookup_gives_the_stored_number(
    memory: Memory, component: str, metric: str, wording: str
) -> None:
    record = newest_with(component)
    expected = oracle.value(record, component, metric)
    for question in (f"what is the {wording} of {component}?", f"{wording} of {component}"):
        answer = asked(memory, question)
        assert [row["value"] for row in answer.rows] == [expected]
        shown = repr(int(expected)) if metric == "dead_units" else repr(expected)  # type: ignore[arg-type]
        assert shown in answer.text
        assert cited(answer) == {(record.id, None)}


def test_lookup_follows_the_names_in_the_question(memory: Memory) -> None:
    cases: tuple[tuple[str, AnalysisRecord], ...] = (
        ("effective rank of encoder.layer.0/mlp in roberta", ROBERTA),
        (f"effective rank of encoder.layer.0/mlp in run {OLD.id[:7]}", OLD),
        ("effective rank of the mlp of layer 0 in acme/roberta-base", ROBERTA),
        ("effective rank of layer.0/mlp in the last analysis", NEW),
    )
    for question, record in cases:
        answer = asked(memory, question)
        expected = oracle.value(record, "encoder.layer.0/mlp", "effective_rank")
        assert [row["value"] for row in answer.rows] == [expected], question
        assert cited(answer) == {(record.id, None)}


def test_lookup_of_a_head_by_its_numbers(memory: Memory) -> None:
    expected = oracle.value(GPT, "h.3/head.2", "sensitivity")
    for question in (
        "sensitivity of head 2 of layer 3 in gpt2",
        "what is the sensitivity of L3H2 in the tiny-gpt2 model?",
        "in gpt-2, what is the output sensitivity of layer 3, head 2?",
    ):
        assert [row["value"] for row in asked(memory, question).rows] == [expected], question


def test_lookup_in_all_analyses(memory: Memory) -> None:
    answer = asked(memory, "effective rank of encoder.layer.1/mlp in all analyses")
    holding = (NEW, ROBERTA, OLD)
    expected = [oracle.value(record, "encoder.layer.1/mlp", "effective_rank") for record in holding]
    assert [row["value"] for row in answer.rows] == expected
    assert cited(answer) == {(record.id, None) for record in holding}


def test_counted_properties_are_whole(memory: Memory) -> None:
    answer = asked(memory, "how many parameters does h.1/mlp have?")
    assert [row["value"] for row in answer.rows] == [GPT.component("h.1/mlp").parameters]
    answer = asked(memory, "how many parameters does vit have?")
    assert answer.rows[0]["parameters"] == VIT.provenance.parameters
    assert str(VIT.provenance.parameters) in answer.text
    answer = asked(memory, "total flops of the heads in vit")
    flops = [c.flops for c in VIT.components if c.kind == "head"]
    assert answer.rows[0]["value"] == sum(flops)
    assert str(sum(flops)) in answer.text


@pytest.mark.parametrize(
    ("question", "records", "metric", "kind", "largest"),
    [
        ("which layer has the largest ablation effect?", [NEW], "ablation_effect", "layer", True),
        ("which head has the lowest sensitivity in gpt2?", [GPT], "sensitivity", "head", False),
        ("highest effective rank across all analyses", RECORDS, "effective_rank", None, True),
        ("smallest gradient rms of the mlps in vit", [VIT], "gradient_rms", "mlp", False),
        (
            "which head of the encoders I analysed has the highest attention entropy?",
            [OLD, ROBERTA, NEW], "attention_entropy", "head", True,
        ),
    ],
)  # fmt: skip
def test_extremes(
    memory: Memory,
    question: str,
    records: Sequence[AnalysisRecord],
    metric: str,
    kind: str | None,
    largest: bool,
) -> None:
    table = oracle.values(records, metric, kind)
    best = (max if largest else min)(table, key=lambda key: table[key])
    answer = asked(memory, question)
    assert [(row["run"], row["component"], row["value"]) for row in answer.rows] == [
        (*best, table[best])
    ]
    assert repr(table[best]) in answer.text
    assert best[1] in answer.text
    assert cited(answer) == {(best[0], None)}


def test_the_top_few_come_in_order(memory: Memory) -> None:
    table = oracle.values([NEW], "sensitivity", "head")
    ordered = sorted(table.items(), key=lambda item: -item[1])[:3]
    for question in ("top 3 heads by sensitivity", "the three heads with the largest sensitivity"):
        answer = asked(memory, question)
        assert [(row["component"], row["value"]) for row in answer.rows] == [
            (component, value) for (_, component), value in ordered
        ]


def test_means_sums_and_counts(memory: Memory) -> None:
    table = oracle.values([NEW], "effective_rank", "mlp")
    expected = oracle.mean(list(table.values()))
    answer = asked(memory, "what is the average effective rank of the mlps?")
    assert answer.rows[0]["value"] == expected
    assert repr(expected) in answer.text
    everywhere = oracle.values(RECORDS, "ablation_effect", "head")
    answer = asked(memory, "mean ablation effect of heads over all analyses")
    assert answer.rows[0]["value"] == oracle.mean(list(everywhere.values()))
    assert answer.rows[0]["count"] == len(everywhere)
    assert cited(answer) == {(record.id, None) for record in RECORDS}
    above = [v for v in oracle.values([NEW], "effective_rank").values() if v > 0.5]
    answer = asked(memory, "how many components have an effective rank above 0.5?")
    assert answer.rows[0]["count"] == len(above)
    below = [v for v in oracle.values([GPT], "sensitivity", "head").values() if v <= 0.3]
    answer = asked(memory, "count heads in gpt2 with sensitivity at most 30 %")
    assert answer.rows[0]["count"] == len(below)
    assert f"{len(below)} head" in answer.text


def test_a_mean_per_layer(memory: Memory) -> None:
    answer = asked(memory, "mean effective rank per layer in gpt2")
    for row in answer.rows:
        inside = [
            value
            for (_, name), value in oracle.values([GPT], "effective_rank").items()
            if GPT.component(name).layer == row["layer"]
        ]
        assert row["value"] == oracle.mean(inside)
    assert [row["layer"] for row in answer.rows] == [0, 1, 2, 3]


def test_heads_that_matter(memory: Memory) -> None:
    table = oracle.values([NEW], "ablation_effect", "head")
    ordered = sorted(table, key=lambda key: -table[key])
    most = asked(memory, "which heads matter most?")
    assert [row["component"] for row in most.rows] == [name for _, name in ordered[:5]]
    assert [row["value"] for row in most.rows] == [table[key] for key in ordered[:5]]
    assert cited(most) == {(NEW.id, None)}
    least = asked(memory, "what are the 2 least important heads in the last analysis?")
    assert [row["component"] for row in least.rows] == [name for _, name in ordered[:-3:-1]]


def test_layers_are_ranked_by_measurement_where_no_ranking_is(memory: Memory) -> None:
    table = oracle.values([NEW], "ablation_effect", "layer")
    answer = asked(memory, "which layers matter most?")
    assert [row["component"] for row in answer.rows] == [
        name for _, name in sorted(table, key=lambda key: -table[key])
    ]


def test_redundant_layers_of_the_encoders(memory: Memory) -> None:
    answer = asked(memory, "which layers of the encoders I analysed were redundant?")
    expected = oracle.findings([OLD, ROBERTA, NEW], "redundant-layers")
    assert {(row["run"], row["finding"]) for row in answer.rows} == {
        (run, finding.id) for run, finding in expected
    }
    assert cited(answer) == {(run, finding.id) for run, finding in expected}
    for _, finding in expected:
        assert repr(finding.severity) in answer.text


def test_how_many_heads_are_redundant(memory: Memory) -> None:
    for question, record in (
        ("how many heads are redundant?", NEW),
        ("how many redundant heads does vit have?", VIT),
    ):
        answer = asked(memory, question)
        found = oracle.findings([record], "redundant-heads")
        heads = {name for _, f in found for name in f.components}
        heads &= {c.id for c in record.components}
        assert answer.rows[0]["count"] == len(heads)
        assert answer.text.startswith(f"{len(heads)} heads")
        assert cited(answer) == {(record.id, finding.id) for _, finding in found}


def test_the_bottlenecks_come_by_severity(memory: Memory) -> None:
    answer = asked(memory, "what is the bottleneck?")
    found = oracle.findings([NEW], "computational-bottleneck", "information-bottleneck")
    ordered = sorted(found, key=lambda item: -item[1].severity)
    assert [row["finding"] for row in answer.rows] == [finding.id for _, finding in ordered]
    worst = asked(memory, "what is the worst bottleneck of gpt2?")
    found = oracle.findings([GPT], "computational-bottleneck", "information-bottleneck")
    assert [row["finding"] for row in worst.rows] == [
        max(found, key=lambda item: item[1].severity)[1].id
    ]


def test_findings_that_rest_on_time_are_there(memory: Memory) -> None:
    answer = asked(memory, "what is the latency critical path?")
    (finding,) = NEW.timings.findings
    assert cited(answer) == {(NEW.id, finding.id)}
    slowest = max(NEW.timings.components.items(), key=lambda item: item[1])
    answer = asked(memory, "which component is slowest?")
    assert [(row["component"], row["value"]) for row in answer.rows] == [slowest]


def test_what_was_accepted_and_why(memory: Memory) -> None:
    answer = asked(memory, "what was accepted and why?")
    (accepted,) = NEW.accepted()
    verdict = next(v for v in NEW.verdicts if v.proposal_id == accepted.id)
    assert [row["id"] for row in answer.rows] == [accepted.id, "combined"]
    assert (NEW.id, accepted.finding_ids[0]) in cited(answer)
    assert verdict.reason in answer.text
    for number in (*verdict.before, *verdict.after, *verdict.bounds):
        shown = repr(int(number.value)) if number.n == 0 else repr(number.value)  # type: ignore[arg-type]
        assert f"{number.name} {shown}" in answer.text
    counted = asked(memory, "how many changes were accepted in all analyses?")
    assert counted.rows[0]["count"] == sum(len(record.accepted()) for record in RECORDS)


def test_why_one_proposal_was_rejected(memory: Memory) -> None:
    proposal, verdict = GPT.proposals[1], GPT.verdicts[1]
    for name in (proposal.id, proposal.id[:9]):
        answer = asked(memory, f"why was {name} rejected?")
        assert [row["reason"] for row in answer.rows] == [verdict.reason]
        assert verdict.reason in answer.text
        assert proposal.rationale in answer.text
        assert repr(verdict.after[0].value) in answer.text
        assert cited(answer) == {(GPT.id, proposal.finding_ids[0])}


def test_a_wrong_premise_is_not_taken_over(memory: Memory) -> None:
    accepted = VIT.proposals[0].id
    assert "was accepted" in asked(memory, f"why was {accepted} rejected?").text
    answer = asked(memory, "why were layers removed in roberta?")
    assert "was rejected" in answer.text


def test_numbers_of_the_gate(memory: Memory) -> None:
    answer = asked(memory, "what divergence did the verdicts of vit measure?")
    told = [
        number["value"]
        for row in answer.rows
        for number in row["numbers"]  # type: ignore[union-attr]
        if number["phase"] == "after"  # type: ignore[index]
    ]
    assert told == [v.after[0].value for v in (*VIT.verdicts, VIT.combined) if v]


def test_what_was_tried_before(memory: Memory) -> None:
    answer = asked(memory, "did we ever try removing layers?")
    tried = {r.id for r in RECORDS if any(p.strategy == "remove-layers" for p in r.proposals)}
    assert {row["run"] for row in answer.rows} == tried
    assert {row["outcome"] for row in answer.rows} == {"rejected"}


def test_nothing_found_is_an_answer_with_its_source(memory: Memory) -> None:
    for question in ("which layers are redundant in roberta?", "was anything failed in roberta?"):
        answer = asked(memory, question)
        assert answer.text.startswith("No ")
        assert answer.rows == ()
        assert cited(answer) == {(ROBERTA.id, None)}
    answer = asked(memory, "what was accepted in llama?")
    assert cited(answer) == {(EMPTY.id, None)}


def test_two_analyses_side_by_side(memory: Memory) -> None:
    answer = asked(memory, "compare the last two analyses")
    rows = {row["quantity"]: row for row in answer.rows}
    parameters = (EMPTY.provenance.parameters, NEW.provenance.parameters)
    assert (rows["parameters"][EMPTY.id], rows["parameters"][NEW.id]) == parameters
    assert rows["parameters"]["difference"] == parameters[1] - parameters[0]
    assert rows["proposals accepted"][EMPTY.id] == 0
    assert rows["proposals accepted"][NEW.id] == len(NEW.accepted())
    assert rows["findings: redundant-heads"][NEW.id] == 2
    assert cited(answer) == {(EMPTY.id, None), (NEW.id, None)}


def test_two_models_by_a_metric(memory: Memory) -> None:
    for question in (
        "compare the effective rank of vit and gpt2",
        "which has the higher effective rank, vit or gpt2?",
        f"compare the effective rank of {VIT.id} and {GPT.id}",
    ):
        (row,) = asked(memory, question).rows
        expected = {
            record.id: oracle.mean(list(oracle.values([record], "effective_rank").values()))
            for record in (VIT, GPT)
        }
        assert {expected[VIT.id], expected[GPT.id]} <= set(row.values())
        assert abs(row["difference"]) == abs(expected[VIT.id] - expected[GPT.id])  # type: ignore[arg-type]
    said = asked(memory, "which has the higher effective rank, vit or gpt2?").text
    winner = "vit" if expected[VIT.id] > expected[GPT.id] else "gpt2"
    assert said.splitlines()[2] == f"The highest mean effective_rank: {winner}."


def test_two_components_side_by_side(memory: Memory) -> None:
    names = ("encoder.layer.0/mlp", "encoder.layer.2/mlp")
    answer = asked(memory, f"compare {names[0]} with {names[1]}")
    row = next(row for row in answer.rows if row["quantity"] == "effective_rank")
    assert [row[name] for name in names] == [
        oracle.value(NEW, name, "effective_rank") for name in names
    ]
    answer = asked(memory, "compare the ablation effect of layer 0 and layer 2 in gpt2")
    (row,) = answer.rows
    assert [row["layer 0"], row["layer 2"]] == [
        oracle.value(GPT, name, "ablation_effect") for name in ("h.0", "h.2")
    ]


def test_all_about_one_place(memory: Memory) -> None:
    answer = asked(memory, "tell me about encoder.layer.1/mlp")
    told = {row["metric"]: row["value"] for row in answer.rows if "metric" in row}
    expected = {m.name: m.value for m in NEW.measurements["encoder.layer.1/mlp"]}
    assert expected.items() <= told.items()
    found = {f.id for f in NEW.findings if "encoder.layer.1/mlp" in f.components}
    assert found <= {row.get("finding") for row in answer.rows}


def test_terms_are_explained_from_cards(memory: Memory) -> None:
    for question, card in (
        ("what is output sensitivity?", 1),
        ("what does sensitivity mean?", 1),
        ("What are redundant heads?", 0),
        ("explain information bottlenecks", 2),
        ("what is low-rank factorisation?", 3),
        ("define low rank factorisation", 3),
    ):
        answer = asked(memory, question)
        assert answer.text.startswith(f"{CARDS[card][1]}: {CARDS[card][2]}"), question
        assert [c.text for c in answer.citations] == [f"card {CARDS[card][0]}: {CARDS[card][1]}"]
        assert cited(answer) == {("knowledge", None)}


def test_the_asks_for_results_and_no_article_for_meaning(memory: Memory) -> None:
    cards = [("block_influence", "Block influence", "How much a block turns the stream.")]
    answer = ask("what is the block influence?", memory, knowledge=cards)
    evidence = next(f for f in NEW.findings if f.code == "redundant-layers")
    assert cited(answer) == {(NEW.id, evidence.id)}
    assert repr(evidence.evidence[0].value) in answer.text
    answer = ask("what is block influence?", memory, knowledge=cards)
    assert answer.text.startswith("Block influence: How much")


def test_titles_of_cards_are_wordings(memory: Memory) -> None:
    cards = [("gradient_rms", "wiggle strength", "How strongly it is corrected.")]
    answer = ask("wiggle strength of encoder.layer.1/mlp", memory, knowledge=cards)
    expected = oracle.value(NEW, "encoder.layer.1/mlp", "gradient_rms")
    assert [row["value"] for row in answer.rows] == [expected]


def test_findings_of_a_kind_name_that_kind(memory: Memory) -> None:
    answer = asked(memory, "which mlps are bottlenecks?")
    assert {row["finding"] for row in answer.rows} == {
        finding.id
        for _, finding in oracle.findings(
            [NEW], "computational-bottleneck", "information-bottleneck"
        )
    }
    answer = asked(memory, "which layers are redundant in roberta?")
    assert "Other findings" not in answer.text
    answer = asked(memory, "how many redundant neurons are in the mlps of vit?")
    assert answer.rows[0]["count"] == 0
    assert "Other findings that name mlps" in answer.text


def test_runs_and_their_conditions(memory: Memory) -> None:
    answer = asked(memory, "how many analyses are there?")
    assert answer.rows[0]["count"] == len(RECORDS)
    answer = asked(memory, "which models did I analyse?")
    assert [row["run"] for row in answer.rows] == [record.id for record in reversed(RECORDS)]
    answer = asked(memory, "what was the objective for roberta?")
    assert answer.rows[0]["objective"] == ROBERTA.conditions.objective
    most = max(RECORDS, key=lambda record: record.provenance.parameters)
    assert asked(memory, "which model has the most parameters?").rows[0]["run"] == most.id
    answer = asked(memory, "summarise the analysis of vit")
    assert cited(answer) == {(VIT.id, None)}


def test_questions_about_meaning_quote_and_cite(memory: Memory) -> None:
    answer = asked(memory, "where does information narrow in gpt2?")
    assert "narrows in the middle" in answer.text
    like = asked(memory, "find analyses like the last one")
    assert NEW.id not in {citation.run for citation in like.citations}
    assert len(like.rows) == 5


@pytest.mark.parametrize(
    "question",
    [
        "what is the effective rank of encoder.layer.9/mlp?",
        "what is the effective rank of layer 42?",
        "what is the effective rank of the frobnicator?",
        "what is the perplexity of encoder.layer.1/mlp?",
        "which heads of llama-70b matter most?",
        "which experts of mixtral were redundant?",
        "which layers of bert-large are redundant?",
        "why was p-000000000000 rejected?",
        "what does f-000000000000 say?",
        "what happened in run 0123456789ab?",
        "what is the weather in Paris?",
        "who won the world cup in 1998?",
        "what learning rate was used?",
        "what is the BLEU score of vit?",
        "how many epochs was gpt2 trained for?",
        "compare vit and resnet",
        "what is the taylor score of encoder.layer.0/head.0?",
        "which experts matter most?",
        "what is quantum entanglement?",
        "which model has the best accuracy?",
    ],
)
def test_what_memory_cannot_answer_is_refused(memory: Memory, question: str) -> None:
    answer = asked(memory, question)
    assert answer.text.startswith("No such"), answer.text
    assert answer.rows == ()
    assert answer.citations == ()


def test_words_passed_over_are_said(memory: Memory) -> None:
    answer = asked(memory, "which layer roughly has the largest ablation effect nowadays?")
    assert answer.rows
    assert "'roughly', 'nowadays'" in answer.text


def test_the_rest_is_offered_where_only_the_newest_answered(memory: Memory) -> None:
    assert "6 of 6 analyses fit" in asked(memory, "which heads matter most?").text
    assert "fit the question" not in asked(memory, "which heads matter most in vit?").text


def test_an_empty_memory_says_so(home: Path) -> None:
    empty = Memory(home, embedder=HashEmbedder())
    answer = ask("which heads matter most?", empty, knowledge=CARDS)
    assert "memory is empty" in answer.text
    assert answer.searched == 0
    explained = ask("what is output sensitivity?", empty, knowledge=CARDS)
    assert explained.text.startswith("Output sensitivity")
    with pytest.raises(UsageError, match="words"):
        ask("  ?! ", empty)


def test_without_an_embedder_all_but_meaning_is_the_same(memory: Memory) -> None:
    class Broken:
        @property
        def fingerprint(self) -> str:
            raise EmbedderUnavailable("none here")

        def embed(self, texts: Sequence[str]) -> object:
            raise EmbedderUnavailable("none here")

    bare = Memory(memory.home, embedder=Broken())  # type: ignore[arg-type]
    for question in ("which heads matter most?", "what is the bottleneck?", "compare vit and gpt2"):
        assert ask(question, bare, knowledge=CARDS) == asked(memory, question)
    assert "narrows" in ask("does information narrow anywhere?", bare, knowledge=CARDS).text


def test_hostile_names_cannot_leave_their_place(home: Path) -> None:
    memory = Memory(home, embedder=HashEmbedder())
    names = ("x') OR 1=1 --", '"; DROP TABLE runs; --', "a*b (c) [d] {r1.value} \\", "NEAR/3 AND")
    for seed, name in enumerate(names):
        memory.add(make_record(seed, model=name, family=name))
    for name in names:
        for question in (name, f"which heads of {name} matter most?", f"why {name}"):
            ask(question, memory, knowledge=[(name, name, name)])
    assert len(memory.runs()) == len(names)


def test_cards_that_change_are_learned_again(home: Path) -> None:
    memory = Memory(home, embedder=HashEmbedder())
    ask("what is drift?", memory, knowledge=[("drift", "Drift", "First meaning.")])
    answer = ask("what is drift?", memory, knowledge=[("drift", "Drift", "Second meaning.")])
    assert "Second meaning." in answer.text
    with memory.reading() as db:
        texts = [row["text"] for row in db.execute("SELECT text FROM chunks")]
    assert texts == ["Drift\nSecond meaning."]
