"""A text keeps what the record holds, and loses every sentence that says otherwise."""

import json
import random
import time

import pytest
from advice.advice_records import HEADS, candidates, findings, record, verdict
from oracles.grounded import Oracle

from zsei.advice.facts import Facts, clean
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.records import AttributedEdge, Matrix
from zsei.resources import load_cards
from zsei.settings import Settings

CARDS = load_cards(Settings())
WHOLE = record(
    matrices=(
        Matrix(
            name="layer_similarity", title="", rows=("encoder.layer.0", "encoder.layer.1"),
            columns=("encoder.layer.0", "encoder.layer.1"), values=((1.0, 0.83), (0.83, 1.0)),
        ),
    ),
    edges=(
        AttributedEdge(
            writer="embeddings", reader=HEADS[0], port="v", attribution=0.5, route_share=0.25
        ),
    ),
    proposals=(candidates()[0],),
    verdicts=(verdict(candidates()[0]),),
)  # fmt: skip
FACTS = Facts(WHOLE, candidates()[1:])
READER = Reader(FACTS, CARDS)
FOUND = [finding.id for finding in findings()]
LAYER, HEAD_CUT, NEURONS, _ = [candidate.id for candidate in candidates()]
MLP0, MLP1 = "encoder.layer.0/mlp", "encoder.layer.1/mlp"
ATTENTION0, ATTENTION1 = "encoder.layer.0/attention", "encoder.layer.1/attention"
SHARE0, SHARE1 = f"{{{MLP0}:flops_share}}", f"{{{MLP1}:flops_share}}"
RANK0, RANK1 = f"{{{ATTENTION0}:effective_rank}}", f"{{{ATTENTION1}:effective_rank}}"

TRUE = {
    "Nothing is said here.": "Nothing is said here.",
    f"{MLP0} has a flops_share of {SHARE0}.": f"{MLP0} has a flops_share of 31.9 %.",
    f"`{MLP0}` has a flops share of {SHARE0}.": f"`{MLP0}` has a flops share of 31.9 %.",
    f"A flops share of {SHARE0} at {MLP0} and {SHARE1} at {MLP1}.":
        f"A flops share of 31.9 % at {MLP0} and 31.8 % at {MLP1}.",
    f"{MLP0} and {MLP1} have flops shares of {SHARE0} and {SHARE1}.":
        f"{MLP0} and {MLP1} have flops shares of 31.9 % and 31.8 %.",
    f"{MLP0} computes {{{MLP0}:flops}} operations.": f"{MLP0} computes 524,288 operations.",
    f"{MLP1} has {{{MLP1}:dead_units}} dead units.": f"{MLP1} has 0 dead units.",
    f"{MLP0} has {{{MLP0}:dead_units}} dead neurons.": f"{MLP0} has 3 dead neurons.",
    f"{MLP1} has an effective rank of {{{MLP1}:effective_rank}}.":
        f"{MLP1} has an effective rank of (could not be told).",
    f"The attention entropy of head 0 of layer 0 is {{{HEADS[0]}:attention_entropy}}.":
        "The attention entropy of head 0 of layer 0 is 48.8 %.",
    f"{ATTENTION0} has {{{ATTENTION0}:heads}} heads.": f"{ATTENTION0} has 4 heads.",
    "Layer 1 has {encoder.layer.1:heads} heads.": "Layer 1 has 4 heads.",
    "The model has {model:layers} layers and {model:heads} heads.":
        "The model has 2 layers and 8 heads.",
    f"Of the model's {{model:parameters}} parameters, {MLP0} holds {{{MLP0}:parameters}}.":
        f"Of the model's 36,924 parameters, {MLP0} holds 8,352.",
    "It has {model:parameters} parameters.": "It has 36,924 parameters.",
    "It saw {analysis:calibration_samples} calibration samples, {analysis:samples_prose} of prose.":
        "It saw 32 calibration samples, 20 of prose.",
    "Layers 0 and 1 both have an MLP.": "Layers 0 and 1 both have an MLP.",
    "The layer 0 attention is idle.": "The layer 0 attention is idle.",
    f"{RANK0} is larger than {RANK1}.": "18.4 is larger than 9.2.",
    f"{RANK0} at {ATTENTION0} is larger than {RANK1} at {ATTENTION1}.":
        f"18.4 at {ATTENTION0} is larger than 9.2 at {ATTENTION1}.",
    f"{ATTENTION0} has a larger effective rank than {ATTENTION1}.": "",
    f"{ATTENTION1} has a lower effective rank than {ATTENTION0}.": "",
    f"The effective rank of {ATTENTION0} exceeds that of {ATTENTION1}.": "",
    f"{ATTENTION0}, which has an effective rank of {RANK0}, leads {ATTENTION1}.":
        f"{ATTENTION0}, which has an effective rank of 18.4, leads {ATTENTION1}.",
    f"{HEADS[0]} and {HEADS[7]} have larger ablation effects than {HEADS[1]} and {HEADS[3]}.": "",
    f"{HEADS[0]} has the largest ablation effect.": "",
    f"{HEADS[0]} and {HEADS[7]} have the largest ablation effects.": "",
    f"{HEADS[5]} has the lowest ablation effect.": "",
    f"{HEADS[7]} has one of the largest ablation effects.": "",
    f"{HEADS[0]} has the largest ablation effect: {{{HEADS[0]}:ablation_effect}}.":
        f"{HEADS[0]} has the largest ablation effect: 0.0412.",
    f"{HEADS[1]} and {HEADS[3]} have a head similarity of {{{FOUND[1]}:head_similarity}}.":
        f"{HEADS[1]} and {HEADS[3]} have a head similarity of 0.973.",
    f"{HEADS[3]} alone has {{{FOUND[1]}:ablation_effect#2}}.": f"{HEADS[3]} alone has 0.0009.",
    f"{FOUND[1]} joins {{{FOUND[1]}:components}} components.": f"{FOUND[1]} joins 2 components.",
    f"{NEURONS} promises {{{NEURONS}:parameters_removed}} parameters.":
        f"{NEURONS} promises 195 parameters.",
    f"{NEURONS} takes {{{NEURONS}:units}} units.": f"{NEURONS} takes 2 units.",
    f"{LAYER} was tried: its divergence was {{{LAYER}:after_divergence}}.":
        f"{LAYER} was tried: its divergence was 0.234.",
    "Output sensitivity of heads: Spearman {analysis:head_output_sensitivity_spearman}.":
        "Output sensitivity of heads: Spearman 0.952.",
    "encoder.layer.0 has a layer similarity of {encoder.layer.0:layer_similarity@encoder.layer.1}.":
        "encoder.layer.0 has a layer similarity of 0.83.",
    f"embeddings give {HEADS[0]} {{embeddings:edge_attribution@{HEADS[0]}}}, a route share of "
    f"{{embeddings:route_share@{HEADS[0]}}}.":
        f"embeddings give {HEADS[0]} 0.5, a route share of 25 %.",
    "The rms of `output` is {output:rms}.": "The rms of `output` is 0.051.",
    f"Without {HEADS[0]} the output changes by {{{HEADS[0]}:ablation_effect}}.":
        f"Without {HEADS[0]} the output changes by 0.0412.",
    "One of them must stay; a second opinion, rather than a guess, is needed.": "",
    "The tiny-bert-2 model was traced in float32 with L2 norms.": "",
    "redundant-heads and `redundant-heads` concern prune-heads.": "",
    f"{MLP0} -> {MLP1} is the way.": "",
    f"Removing {HEADS[0]} moves the output by {{{HEADS[0]}:ablation_effect}}.":
        f"Removing {HEADS[0]} moves the output by 0.0412.",
    f"They take {SHARE0}, {SHARE1} and {RANK0}.": "They take 31.9 %, 31.8 % and 18.4.",
    f"It grows ({SHARE0}).": "It grows (31.9 %).",
}  # fmt: skip

FALSE = [
    # numbers that are no slots
    f"{MLP0} has a flops share of 31.9 %.",
    f"{MLP0} has three dead units.",
    f"{MLP0} has half of the flops share.",
    f"{MLP0} has a flops share of ３３％.",
    f"{MLP0} has a flops share of ½.",
    f"{MLP0} has Ⅻ dead units.",
    f"{MLP0} has 5 heads and a flops share of {SHARE0}.",
    "The model has twelve heads.",
    "It takes 12 ms.",
    "A dozen heads could go.",
    "The second layer is idle.",
    "It is five-fold.",
    # slots that do not resolve, or are none
    f"{MLP0} has {{{MLP0}:taylor}}.",
    "It has {encoder.layer.9/mlp:flops_share}.",
    "It has {f-000000000000:severity}.",
    f"It has {{{FOUND[1]}:ablation_effect#3}}.",
    "It has {encoder.layer.0:layer_similarity@encoder.layer.7}.",
    "It has {model:secrets} and {0.__class__}.",
    "It has {r1.value}.",
    "It has {}.",
    "It has {model:parameters.",
    "It has { model : parameters }}.",
    # slots in the wrong place
    f"{MLP1} has a flops share of {SHARE0}.",
    f"{MLP1} has a flops share of {SHARE0}, and {MLP0} has {SHARE1}.",
    f"A flops share of {SHARE1} at {MLP0} and {SHARE0} at {MLP1}.",
    f"{MLP0} and {MLP1} have flops shares of {SHARE1} and {SHARE0}.",
    f"{MLP0} has an effective rank of {SHARE0}.",
    f"{MLP0} has {SHARE0} heads.",
    "The model has {model:heads} layers.",
    f"{HEADS[2]} alone has {{{FOUND[1]}:joint_effect}}.",
    f"{HEADS[1]} alone has {{{FOUND[1]}:ablation_effect#2}}.",
    f"{MLP0} has {{model:parameters}} parameters.",
    "There are {model:heads} heads in layer 1.",
    f"The model has {{{MLP0}:parameters}} parameters.",
    f"{RANK0} of {{model:heads}} heads are idle.",
    f"embeddings has {SHARE0}.",
    f"The output takes {SHARE0}.",
    f"output: {SHARE0}",
    # slots that what stands around them turns into something else
    f"{MLP0} has -{SHARE0}.",
    f"{MLP0} has {SHARE0}{SHARE0}.",
    f"{MLP0} has {SHARE0}.{SHARE0}.",
    f"{MLP0} has 1{SHARE0}.",
    f"{MLP0} has {SHARE0}x.",
    f"{MLP0} has {SHARE0} times.",
    f"{MLP0} has {{{MLP0}:dead_units}} million dead units.",
    f"{MLP0} has {{{MLP0}:dead_units}}k dead units.",
    f"{MLP0} has {{{MLP0}:dead_units}} k units.",
    f"{MLP0} does not have {{{MLP0}:dead_units}} dead units.",
    f"{MLP0} takes {{{MLP0}:dead_units}} ms.",
    f"{MLP0} has minus {SHARE0}.",
    f"All but {{{MLP0}:dead_units}} of {MLP0} go.",
    # names of what is not there
    "Layer 7 is idle.",
    "Layers 0 and 2 repeat each other.",
    "Layers 0 and 1 heads are idle.",
    "Layer 1 % of it.",
    "Head 4 of layer 0 is idle.",
    "encoder.layer.9/mlp is idle.",
    "encoder.layer.0/mlp2 is idle.",
    "encoder.layer.0.mlp is idle.",
    "decoder/mlp is idle.",
    "`decoder` is idle.",
    "f-0123456789ab says so.",
    "conv3 is a bottleneck.",
    "Its some_measure is high.",
    "The h\u0435ad is idle.",  # a letter of another script
    # comparisons that do not hold, or cannot be checked
    f"{ATTENTION1} has a larger effective rank than {ATTENTION0}.",
    f"{ATTENTION0} has a lower effective rank than {ATTENTION1}.",
    f"{ATTENTION0} has no larger effective rank than {ATTENTION1}.",
    f"{ATTENTION0} does not have a larger effective rank than {ATTENTION1}.",
    f"The effective rank of {ATTENTION1} exceeds that of {ATTENTION0}.",
    f"{RANK1} is larger than {RANK0}.",
    f"{RANK0} is larger than {SHARE0}.",
    f"{RANK0} is as large as {RANK1}.",
    f"{ATTENTION0} is more important than {ATTENTION1}.",
    f"{MLP0} has a larger effective rank than {MLP1}.",  # could not be told
    f"{ATTENTION0} is faster than {ATTENTION1}.",
    f"{ATTENTION0} is cleverer than {ATTENTION1}.",
    f"{ATTENTION0} has a larger effective rank than expected.",
    f"{ATTENTION0} has a larger effective rank than the average, unlike {ATTENTION1}.",
    f"Unlike {ATTENTION0}, the rest has a larger effective rank than {ATTENTION1}.",
    f"{HEADS[0]} has a larger ablation effect than {HEADS[1]} and {HEADS[0]}.",
    f"{HEADS[0]} is as large as {HEADS[1]}.",
    "Layer 1 of layer 7 is idle.",
    f"{ATTENTION0} outperforms {ATTENTION1}.",
    f"{ATTENTION0} takes most of the operations.",
    f"{ATTENTION0} dominates {ATTENTION1}.",
    f"{ATTENTION0} matters more, {ATTENTION1} less.",
    f"{ATTENTION0} has twice the effective rank of {ATTENTION1}.",
    f"{ATTENTION0} has above {RANK0}.",
    f"{ATTENTION0} has at least {RANK0}.",
    f"{RANK0} > {RANK1}",
    f"{HEADS[7]} has the largest ablation effect.",
    f"{HEADS[0]} does not have the largest ablation effect.",
    f"{HEADS[0]} has the lowest ablation effect.",
    f"{HEADS[5]} has one of the largest ablation effects.",
    f"{HEADS[0]} and {HEADS[2]} have the largest ablation effects.",
    f"{HEADS[0]} is the most useful.",
    "The removal of heads is cheaper than the removal of layers.",
]  # fmt: skip


@pytest.mark.parametrize("text", TRUE)
def test_what_holds_stays(text: str) -> None:
    grounded = ground(text, FACTS, READER)
    assert grounded.struck == 0, grounded.claims
    assert grounded.text == (TRUE[text] or text)
    assert all(claim.holds for claim in grounded.claims)
    assert len(grounded.claims) == text.count("{")


@pytest.mark.parametrize("text", FALSE)
def test_what_does_not_hold_is_struck(text: str) -> None:
    grounded = ground(text, FACTS, READER)
    assert grounded.text == "" or "." in text.rstrip(".")
    assert grounded.struck >= 1, grounded.text
    assert not all(claim.holds for claim in grounded.claims)


def test_only_the_sentence_goes() -> None:
    text = f"Heads differ. {MLP0} has 99 %. {MLP0} has {{{MLP0}:dead_units}} dead units.\nThe end."
    grounded = ground(text, FACTS, READER)
    assert grounded.text == f"Heads differ. {MLP0} has 3 dead units.\nThe end."
    assert grounded.struck == 1
    (wrong,) = [claim for claim in grounded.claims if not claim.holds]
    assert (wrong.stated, wrong.measured) == (None, None)
    assert "99 %" in wrong.text
    (right,) = [claim for claim in grounded.claims if claim.holds]
    assert (right.component, right.measurement) == (MLP0, "dead_units")
    assert (right.stated, right.measured) == (3, 3)


def test_what_could_not_be_told_is_a_claim_without_a_number() -> None:
    (claim,) = ground(f"It has {{{MLP1}:effective_rank}}.", FACTS, READER).claims
    assert (claim.component, claim.measurement, claim.measured) == (MLP1, "effective_rank", None)
    assert claim.holds


def test_it_means_what_was_named_last() -> None:
    assert ground(f"{MLP0} is large. It has {SHARE0}.", FACTS, READER).struck == 0
    assert ground(f"{MLP1} is large. It has {SHARE0}.", FACTS, READER).struck == 1
    assert ground(f"{MLP1} is large. {MLP0} has 3. It has {SHARE0}.", FACTS, READER).struck == 2
    about = frozenset((MLP1,))
    assert ground(f"It has {SHARE0}.", FACTS, READER, subject=about).struck == 1
    assert ground(f"It has {SHARE1}.", FACTS, READER, subject=about).struck == 0


def test_what_was_filled_in_is_never_read_again() -> None:
    """A component may be named like a slot; its name is a name, and one pass fills what is one."""
    strange = "{model:parameters}"
    parts = (*record().components, record().components[0].model_copy(update={"id": strange}))
    facts = Facts(record(components=parts))
    reader = Reader(facts, CARDS)
    assert ground("It has {model:components} components.", facts, reader).text == (
        "It has 17 components."
    )
    assert ground(f"It is {strange}.", facts, reader).text == "It is 36,924."


def test_ids_that_read_like_prose_need_backticks() -> None:
    """In a plain sequence of modules a component may be called "2", and a stranger's "99 %"."""
    first = record().components[0]
    parts = [first.model_copy(update={"id": name}) for name in ("7", "99 %", "twice", "half")]
    facts = Facts(record(components=(*record().components, *parts)))
    reader = Reader(facts, CARDS)
    for name in ("7", "99 %", "twice", "half"):
        assert ground(f"`{name}` is an embedding.", facts, reader).struck == 0
        assert ground(f"It is {name} of all.", facts, reader).struck == 1


def test_hidden_characters_are_gone() -> None:
    assert clean("a\x1b[31mb\u202ec\x00d\u200be") == "a[31mbcde"
    assert clean("ﬁve ９") == "five 9"
    assert ground("It has th\u200bree parts.", FACTS, READER).struck == 1


def test_endless_sentences_are_struck_at_once() -> None:
    pieces = ("1 a ", "a1./#-", "1e", "more ", "two and ", "layers 1, ", "{a:", "`", "a_b",
              "larger than ", "a, and ")  # fmt: skip
    for piece in pieces:
        for times in (1000, 990 // len(piece)):
            begin = time.process_time()
            ground(piece * times, FACTS, READER)
            assert time.process_time() - begin < 10  # a pattern that explodes takes hours
    assert ground("a" * 1001, FACTS, READER).struck == 1


WORDS = [
    *HEADS[:3], ATTENTION0, ATTENTION1, MLP0, RANK0, RANK1, SHARE0, SHARE1, "{model:heads}",
    f"{{{MLP1}:effective_rank}}", "{model:nothing}", f"{{{FOUND[1]}:joint_effect}}",
    "effective rank", "flops share", "ablation effect", "is larger than", "has a lower",
    "than", "of", "and", "is", "has", "the", "heads", "12", "half", "three", "%", "layer 1",
    "layer 9", "f-0123456789ab", FOUND[0], "conv_9", "not", ",", "-", "it", "the largest",
    "exceeds", "the model", "²", "٣", "encoder.layer.9/mlp",
]  # fmt: skip


def test_a_second_reading_agrees() -> None:
    """A slow one, word by word, on random texts of names, slots, digits and comparisons."""
    oracle = Oracle(WHOLE)
    generator = random.Random(11)
    survived = 0
    for _ in range(6000):
        words = generator.choices(WORDS, k=generator.choice((2, 3, 4, 5, 6, 8)))
        text = " ".join(words) + "."
        grounded = ground(text, FACTS, READER)
        expected = oracle.survives(words)
        assert (grounded.struck == 0) is expected, (text, grounded.claims, oracle.reasons(words))
        if expected:
            survived += 1
            assert grounded.text == oracle.filled(words)
        json.dumps([claim.model_dump() for claim in grounded.claims], allow_nan=False)
    assert survived > 300


def test_noise_never_breaks_it_and_no_number_slips_through() -> None:
    """What survives holds no digit that is not a name's, a slot's or a layer's."""
    generator = random.Random(5)
    pieces = [*WORDS, "31.9 %", "\n", "x10^", "e5", "(", "``", "{", "}", ":", "ⅷ", "１", "𝟗", "🔟"]
    for _ in range(2000):
        text = " ".join(generator.choices(pieces, k=generator.randrange(1, 14)))
        grounded = ground(text, FACTS, READER)
        again = grounded.text
        for name in (*HEADS, ATTENTION0, ATTENTION1, MLP0, FOUND[0]):
            again = again.replace(name, "")
        for number in ("31.9 %", "31.8 %", "18.4", "9.2", "0.0187", "8", "layer 1"):
            again = again.replace(number, "")
        assert not any(character.isnumeric() for character in again), (text, grounded.text)
