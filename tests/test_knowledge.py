"""Knowledge cards: complete, tied together, printed, and found by questions in other words."""

import inspect
import re
from pathlib import Path

import pytest

from zsei.analyzers import ANALYZERS
from zsei.cards import Cards
from zsei.cli import main
from zsei.errors import CardError
from zsei.memory import Memory, cards_of
from zsei.memory.search import retrieve
from zsei.resources import load_cards
from zsei.settings import Settings
from zsei.speedups import SPEED_UPS
from zsei.speedups.training import TRAINING_SPEED_UPS
from zsei.strategies import STRATEGIES

QUESTIONS: tuple[tuple[str, str], ...] = (
    ("why is my pruned model not faster?", "flops-are-not-latency"),
    ("I set weights to zero but the file is as large as before", "masked-is-not-smaller"),
    (
        "can I multiply the speed-ups of flash attention, SIMD and half precision?",
        "multiplied-speed-ups",
    ),
    ("the report projects a 70x training speedup, can I believe it?", "projected-speed-up"),
    ("which parts of a program are usually slow and should I trust that?", "expected-hot-spots"),
    ("they say attention memory falls by a factor of thousands", "one-buffer-is-not-the-peak"),
    ("why do two rankings of the same heads disagree?", "rankings-move"),
    ("should I prune the units with the smallest norm first?", "magnitude-is-not-importance"),
    ("does a high attention weight mean the token was the reason?", "attention-is-not-explanation"),
    ("are heads with high entropy more important?", "attention-entropy-is-not-importance"),
    ("can I drop directions in which activations hardly vary?", "low-variance-can-matter"),
    ("should an ablated head be replaced by zero or by its average?", "mean-or-zero"),
    ("why must data for scoring differ from data for judging?", "held-out-is-apart"),
    ("if I try a hundred changes on one test set, will some pass by luck?", "many-tries"),
    ("is a test on thirty inputs enough to trust?", "small-samples"),
    ("accuracy did not change after compression but the answers did", "accuracy-hides-change"),
    ("both heads look useless alone, can I remove the pair?", "redundant-together"),
    ("two layers have CKA near one, so may I drop one?", "alike-is-not-the-same"),
    ("why does effective rank grow when I use more data?", "effective-rank-needs-samples"),
    ("neurons never fire on my texts, are they safe to remove?", "dead-on-this-data"),
    (
        "my batches contain many pad tokens, does that distort the statistics?",
        "padding-is-not-data",
    ),
    (
        "the accuracy collapsed after pruning channels before batch normalisation",
        "batch-norm-after-cuts",
    ),
    ("the model gives NaN in float16", "half-precision-overflow"),
    ("latency numbers differ from run to run on a shared server", "timing-on-a-busy-machine"),
    ("the first forward pass is much slower than the rest", "warm-caches"),
    (
        "a module is used twice with the same parameters, what happens when I prune it?",
        "shared-weights",
    ),
    ("can I shrink the hidden size of a model with LayerNorm?", "width-and-layer-norm"),
    (
        "do contributions of heads add up in BERT, where norms stand on the stream?",
        "frozen-norm-statistics",
    ),
    ("why are Taylor scores zero without labels?", "first-order-at-the-minimum"),
    ("can I reuse a fixed importance threshold from another model?", "absolute-thresholds"),
    ("do the groups of similar neurons depend on the order of comparison?", "greedy-groups"),
    ("can I trust the numbers a chatbot writes about my model?", "words-are-not-measurements"),
    ("how is a model built that normalises before each block?", "pre-norm-stream"),
    ("where does BERT put its layer norms?", "post-norm-stream"),
    ("several query heads use the same keys and values", "grouped-query-attention"),
    ("what is SwiGLU?", "gated-mlp"),
    ("how does a router choose experts for a token?", "mixture-of-experts"),
    ("what limits a language model while it writes token by token?", "decoder-with-cache"),
    ("how does a transformer read an image?", "vision-transformer"),
    ("why are some blocks of a ResNet not removable, because of strides?", "residual-cnn"),
    ("how does T5 look at its input while writing?", "encoder-decoder"),
    ("how does PatchTST forecast?", "patch-time-series"),
    ("input and output embedding are the same matrix", "tied-embeddings"),
    ("how can the remaining weights be refitted after a cut?", "weight-compensation"),
    ("what does the gate check before it accepts a change?", "gated-verdict"),
    ("which channels of a convolution must be removed together?", "channel-pruning"),
    (
        "we removed a third of the parameters and inference takes just as long",
        "flops-are-not-latency",
    ),
    ("our sparse checkpoint takes the same disk space", "masked-is-not-smaller"),
    ("benchmarks were run while other jobs used the CPU", "timing-on-a-busy-machine"),
    ("removing either head costs nothing, removing the two breaks the model", "redundant-together"),
    ("is the rank limited by how many tokens I fed in?", "effective-rank-needs-samples"),
    ("a unit is silent on English, might another language wake it?", "dead-on-this-data"),
    ("warm-up runs before timing", "warm-caches"),
    ("is a filter with tiny weights safe to cut?", "magnitude-is-not-importance"),
    ("compressing halved the FLOPs but throughput stayed the same", "flops-are-not-latency"),
    ("does unstructured sparsity save memory?", "masked-is-not-smaller"),
    ("gain A times gain B times gain C as the total gain", "multiplied-speed-ups"),
    ("is a promised acceleration a result?", "projected-speed-up"),
    ("does the batch norm need recalibrating after pruning?", "batch-norm-after-cuts"),
    ("how many samples are needed before I believe a difference?", "small-samples"),
    (
        "is the top-1 score sufficient to say that a compressed model is equal?",
        "accuracy-hides-change",
    ),
    ("what does it mean that a neuron is always zero on my dataset?", "dead-on-this-data"),
    ("do attention heat maps show why a prediction was made?", "attention-is-not-explanation"),
    ("same samples used for choosing and for evaluating", "held-out-is-apart"),
    ("the router of a sparse model sends tokens to few MLPs", "mixture-of-experts"),
    (
        "does removing one dimension of the residual stream change LayerNorm?",
        "width-and-layer-norm",
    ),
    ("bfloat16 or float16, what can go wrong?", "half-precision-overflow"),
    ("words of an LLM as evidence", "words-are-not-measurements"),
    ("how can attention avoid writing the whole score matrix?", "attention-backend"),
    ("most of my batch is padding, how do I skip that work?", "padding-removal"),
    ("should I run the model in bfloat16?", "lower-precision"),
    ("quantise the weights to 8 bit integers", "int8"),
    ("what does torch.compile gain, and what does the first call cost?", "compilation"),
    ("why run an exported model in ONNX Runtime?", "onnx-runtime"),
    ("how many threads should inference use on two cores?", "threads"),
    ("memory layout of images for convolutions", "channels-last"),
    ("reuse keys and values while generating tokens", "kv-cache"),
    ("recompute activations in the backward pass to save memory", "activation-checkpointing"),
    ("split a batch into micro-batches before one optimizer step", "gradient-accumulation"),
    ("can I benchmark a network with an input of zeros?", "timing-on-zeros"),
    ("100x faster than a slow single-threaded reference, is that honest?", "weak-baseline"),
    ("compile time is not part of the reported speed-up", "one-time-costs"),
)
"""What somebody may ask, in other words than the card's, and the card that answers."""


@pytest.fixture(scope="module")
def cards() -> Cards:
    return load_cards(Settings())


def test_every_kind_is_well_stocked(cards: Cards) -> None:
    count = {kind: 0 for kind in ("finding", "technique", "pattern", "trap")}
    for card in cards.knowledge.values():
        count[card.kind] += 1
    assert sum(count.values()) >= 55
    assert count["pattern"] >= 11
    assert count["trap"] >= 20
    assert {a.code for a in ANALYZERS} <= {
        c.id for c in cards.knowledge.values() if c.kind == "finding"
    }


def test_every_strategy_has_its_technique(cards: Cards) -> None:
    assert {strategy.name for strategy in STRATEGIES} == set(cards.strategies)
    for entry in cards.strategies.values():
        assert cards.knowledge[entry.technique].kind == "technique", entry.name


def test_every_speed_up_has_its_entry_and_every_entry_its_speed_up(cards: Cards) -> None:
    by_use = {"inference": SPEED_UPS, "training": TRAINING_SPEED_UPS}
    for use, shelf in by_use.items():
        entries = {e.name: e for e in cards.speedups.values() if e.use == use}
        assert {each.name for each in shelf} == set(entries), use
        assert {each.name: each.title for each in shelf} == {n: e.title for n, e in entries.items()}
    for entry in cards.speedups.values():
        assert cards.knowledge[entry.technique].kind == "technique", entry.name


def test_a_speed_up_is_explained_with_the_words_of_its_class(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for each in (SPEED_UPS[0], TRAINING_SPEED_UPS[0]):
        assert main(["explain", each.name]) == 0
        printed = capsys.readouterr().out
        documented = inspect.getdoc(type(each))
        assert documented is not None
        assert documented.splitlines()[0] in printed
        assert "(speed-up)" in printed


def test_every_technique_of_speed_says_how_it_is_measured(cards: Cards) -> None:
    for entry in cards.speedups.values():
        body = cards.knowledge[entry.technique].body
        assert "How it is measured here:" in body, entry.technique
        assert re.search(r"does\s+not(?:\s+help)?|is\s+no\s+speed-up", body), entry.technique


def test_every_card_says_what_it_is_and_where_from(cards: Cards) -> None:
    titles = [card.title for card in cards.knowledge.values()]
    assert len(set(titles)) == len(titles)
    for card in cards.knowledge.values():
        assert 80 <= len(card.meaning) <= 600, card.id
        assert len(card.body.split("\n\n")) >= 2, card.id
        for source in card.sources:
            year = re.search(r"\b(1[6-9]|20)\d\d$", source)
            assert year is not None, f"{card.id}: {source}"
            assert source.count(",") >= 2, f"{card.id}: {source} names no author, title and year"


def test_links_between_cards_hold(cards: Cards, tmp_path: Path) -> None:
    for card in cards.knowledge.values():
        assert set(card.see) <= set(cards.knowledge) - {card.id}
        assert len(set(card.see)) == len(card.see)
    page = (
        '---\nid: mine\nkind: trap\ntitle: Mine\nsources: ["Nobody, Nothing, 2020"]\n'
        "see: [nowhere]\n---\nText.\n"
    )
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "mine.md").write_text(page)
    with pytest.raises(CardError, match=r"mine must name cards that there are.*nowhere"):
        load_cards(Settings(cards=tmp_path))


def test_every_trap_says_how_it_is_guarded_against(cards: Cards) -> None:
    traps = [card for card in cards.knowledge.values() if card.kind == "trap"]
    assert [card.id for card in traps if "How it is guarded against:" not in card.body] == []


def test_a_projected_speed_up_is_a_claim(cards: Cards) -> None:
    claim = cards.knowledge["projected-speed-up"]
    assert claim.kind == "trap"
    assert "78.75" in claim.body
    assert "78.75" in cards.knowledge["multiplied-speed-ups"].body


def test_explain_lists_by_kind_and_prints_one(
    cards: Cards, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain"]) == 0
    listed = capsys.readouterr().out
    kinds: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if line.startswith("  "):
            kinds[list(kinds)[-1]].append(line.split(":")[0].strip())
        else:
            kinds[line] = []
    for card in cards.knowledge.values():
        assert card.id in kinds[card.kind]
    assert main(["explain", "masked-is-not-smaller"]) == 0
    printed = capsys.readouterr().out
    card = cards.knowledge["masked-is-not-smaller"]
    assert f"{card.title} (trap)" in printed
    assert all(source in printed for source in card.sources)
    assert f"See also: {', '.join(card.see)}" in printed


@pytest.mark.long
def test_questions_in_other_words_find_their_card(cards: Cards, home: Path) -> None:
    """Beside the cards stand all entries of the vocabularies, which compete for the places."""
    memory = Memory(home)
    memory.learn(cards_of(cards))
    missed = []
    for question, wanted in QUESTIONS:
        hits = retrieve(memory, question, kinds=["knowledge"], limit=12)
        nearest = list(dict.fromkeys(hit.key for hit in hits))[:5]
        if wanted not in nearest:
            missed.append((question, wanted, nearest))
    assert len(QUESTIONS) >= 60
    assert len({wanted for _, wanted in QUESTIONS}) >= 45
    assert len(missed) <= 0.05 * len(QUESTIONS), missed
