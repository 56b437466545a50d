"""A text keeps what the record holds, and loses every sentence that says otherwise."""

import json
import random
import time

import pytest
from advice.advice_records import HEADS, candidates, findings, record

from zsei.advice.facts import Facts
from zsei.advice.grounding import Cited, clean, ground
from zsei.advice.names import Reader
from zsei.resources import load_cards
from zsei.settings import Settings

CARDS = load_cards(Settings())
FACTS = Facts(record(), candidates())
READER = Reader(FACTS, CARDS)
FINDINGS = [finding.id for finding in findings()]
MLP0, MLP1 = "encoder.layer.0/mlp", "encoder.layer.1/mlp"
ATTENTION0, ATTENTION1 = "encoder.layer.0/attention", "encoder.layer.1/attention"


def struck(text: str, cited: tuple[Cited, ...] = (), about: list[str] | None = None) -> int:
    return ground(text, FACTS, READER, cited=cited, findings=about or []).struck


TRUE = [
    "Nothing is said here.",
    f"{MLP0} has a flops_share of 0.319.",
    f"{MLP0} has a flops share of 0.32.",
    f"{MLP0} has a flops share of 31.9 %.",
    f"{MLP0} takes 32 percent: its share of the operations.",
    f"{MLP0} has a flops share of 32%, and {MLP1} has 31.8 %.",
    f"A flops share of 31.9 % at {MLP0} and 31.8 % at {MLP1}.",
    f"{MLP0} and {MLP1} have flops shares of 31.9 % and 31.8 %.",
    f"{MLP0} has three dead units.",
    f"{MLP1} has 0 dead units.",
    f"{MLP0} has 524,288 flops, or 0.52 MFLOPs, or 5.24e5 flops.",
    f"{MLP0} computes 524 thousand flops.",
    f"The attention entropy of {HEADS[0]} is 0.488.",
    "The attention entropy of head 0 of layer 0 is 0.488.",
    "Head 0 in layer 0 has an ablation effect of 0.0412.",
    "The model has 2 layers and eight heads.",
    "It is a 2-layer encoder with 36,924 parameters, or 36.9 thousand parameters.",
    "It saw 32 calibration samples and 24 held-out samples, of which 20 prose samples.",
    "Layers 0 and 1 both have an MLP.",
    f"{ATTENTION0} has 4 heads.",
    f"{ATTENTION0} has a larger effective rank than {ATTENTION1}.",
    f"{ATTENTION1} has a lower effective rank than {ATTENTION0}.",
    f"The effective rank of {ATTENTION0} exceeds that of {ATTENTION1}.",
    f"{ATTENTION0} has twice the effective rank of {ATTENTION1}.",
    f"The effective rank of {ATTENTION1} is half that of {ATTENTION0}.",
    f"The effective rank of {ATTENTION0} is 2.0 times that of {ATTENTION1}.",
    f"{HEADS[0]} has the largest ablation effect.",
    f"{HEADS[0]} and {HEADS[7]} have the largest ablation effects.",
    f"{HEADS[5]} has the lowest ablation effect.",
    f"{HEADS[7]} has one of the largest ablation effects.",
    f"{MLP0} has more than 30 % flops share.",
    f"{MLP0} has a flops share of at least 31 %.",
    f"{MLP1} has a flops share below 32 %.",
    f"{MLP1} has a flops share of no more than 32 % and no less than 31 %.",
    f"{HEADS[1]} and {HEADS[3]} have a head similarity of 0.97.",
    "For heads, output sensitivity agrees with ablation: Spearman 0.95, Kendall 0.86 over 8 heads.",
    "For heads, half of the samples (noise of the truth) gives a Spearman of 0.98.",
    f"Without {HEADS[0]} the output changes: it has an ablation effect of 0.0412.",
    f"The output changes most without {HEADS[0]}, with an ablation effect of 0.0412.",
    "The output has an rms of 0.051.",
    f"The rms of `output` is 0.051, and the flops share of {MLP0} is 31.9 %.",
    "The removal of heads is cheaper than the removal of layers.",
    "One of them must stay; the third layer does not exist, and neither does a second opinion.",
    "The tiny-bert-2 model was traced in float32 with L2 norms.",
    f"{MLP0} has a branch_to_stream ratio of 0.41.",
]

FALSE = [
    f"{MLP0} has a flops_share of 0.33.",
    f"{MLP0} has a flops share of 0.31.",  # cut off rather than rounded
    f"{MLP0} has a flops share of 0.319 %.",
    f"{MLP0} has a flops share of 319.",
    f"{MLP0} has a flops share of 33%.",
    f"{MLP0} has a flops share of -0.319.",
    f"{MLP0} has a flops share of ninety-three percent.",
    f"{MLP0} has half of the flops share.",
    f"{MLP0} has a flops share of ３３％.",
    f"{MLP0} has a flops share of ½.",
    f"{MLP1} has a flops share of 0.319.",  # the other one's
    f"{MLP1} has a flops share of 31.9 %, and {MLP0} has 31.8 %.",  # swapped
    f"A flops share of 31.8 % at {MLP0} and 31.9 % at {MLP1}.",
    f"{MLP0} and {MLP1} have flops shares of 31.8 % and 31.9 %.",
    f"{MLP0} has an effective rank of 0.319.",  # another measurement's
    f"{MLP0} is worth 0.319.",  # not cited, not named
    f"{MLP0} has four dead units.",
    f"{MLP0} has 0 dead units.",
    f"{MLP0} does not have 3 dead units.",
    f"{MLP1} has an effective rank of 0.",  # could not be told
    "The model has 3 layers.",
    "The model has twelve heads.",
    "The model has 36,925 parameters.",
    "Layer 7 is idle.",
    "Layers 0 and 2 repeat each other.",
    "Head 4 of layer 0 is idle.",
    "encoder.layer.9/mlp is idle.",
    "encoder.layer.0/mlp2 is idle.",
    "encoder.layer.0.mlp is idle, says f-0123456789ab.",
    "conv3 is a bottleneck.",
    f"{ATTENTION1} has a larger effective rank than {ATTENTION0}.",
    f"{ATTENTION0} has a lower effective rank than {ATTENTION1}.",
    f"{ATTENTION0} does not have a larger effective rank than {MLP0}, 42 times.",
    f"{ATTENTION0} has no larger effective rank than {ATTENTION1}.",
    f"The effective rank of {ATTENTION1} exceeds that of {ATTENTION0}.",
    f"{ATTENTION0} is more important than {ATTENTION1}.",
    f"{MLP0} has a larger effective rank than {MLP1}.",  # could not be told
    f"{ATTENTION0} is faster than {ATTENTION1}.",
    f"{ATTENTION1} has twice the effective rank of {ATTENTION0}.",
    f"{ATTENTION0} has three times the effective rank of {ATTENTION1}.",
    f"The effective rank of {ATTENTION0} is half that of {ATTENTION1}.",
    f"{ATTENTION0} is twice as important.",
    f"{HEADS[7]} has the largest ablation effect.",
    f"{HEADS[0]} has the lowest ablation effect.",
    f"{HEADS[5]} has one of the largest ablation effects.",
    f"{HEADS[0]} and {HEADS[2]} have the largest ablation effects.",
    f"{MLP0} has more than 32 % flops share.",
    f"{MLP0} has a flops share of at most 31 %.",
    f"{MLP0} has a flops share of no less than 32 %.",
    f"{MLP0} has a flops share of no more than 31 %.",
    f"{HEADS[1]} and {HEADS[2]} have a head similarity of 0.97.",
    "For heads, output sensitivity agrees with ablation: Spearman 0.99.",
    "The output has an rms of 0.052.",
    f"The rms of {MLP0} is 0.051.",
    f"The output has a flops share of 31.9 %, and {MLP0} has an rms of 0.051.",
    "For channels, magnitude agrees with ablation: Spearman 0.95.",
    "It takes 12 ms.",
    "It saves 10 MiB in 2024.",
    "It is 5x cheaper.",
    "A dozen heads could go.",
    "A hundred neurons could go.",
]  # fmt: skip


@pytest.mark.parametrize("text", TRUE)
def test_what_holds_stays(text: str) -> None:
    grounded = ground(text, FACTS, READER)
    assert grounded.struck == 0, grounded.claims
    assert grounded.text == text
    assert all(claim.holds for claim in grounded.claims)


@pytest.mark.parametrize("text", FALSE)
def test_what_does_not_hold_is_struck(text: str) -> None:
    grounded = ground(text, FACTS, READER)
    assert grounded.struck == 1
    assert grounded.text == ""
    assert not all(claim.holds for claim in grounded.claims)


def test_only_the_sentence_goes() -> None:
    text = f"Heads differ. {MLP0} has a flops share of 99 %. {MLP0} has 3 dead units.\nThe end."
    grounded = ground(text, FACTS, READER)
    assert grounded.text == f"Heads differ. {MLP0} has 3 dead units.\nThe end."
    assert grounded.struck == 1
    (wrong,) = [claim for claim in grounded.claims if not claim.holds]
    assert wrong.stated == 99
    (right,) = [claim for claim in grounded.claims if claim.holds]
    assert (right.component, right.measurement) == (MLP0, "dead_units")
    assert (right.stated, right.measured) == (3, 3)


def test_a_citation_lets_a_sentence_leave_its_measurement_unnamed() -> None:
    text = f"{MLP0} takes 31.9 %. It is much."
    cited = Cited(component=MLP0, measurement="flops_share", value=0.319)
    assert struck(text) == 1
    assert struck(text, (cited,)) == 0
    assert struck("It takes 31.9 %.", (cited,)) == 0
    assert struck(f"{MLP1} takes 31.9 %.", (cited,)) == 1


@pytest.mark.parametrize(
    ("value", "holds"),
    [(0.319, True), (0.32, True), (0.3, True), (0.318, False), (31.9, False), (0.31900001, False)],
)
def test_a_citation_is_checked_itself(value: float, holds: bool) -> None:
    cited = Cited(component=MLP0, measurement="flops_share", value=value)
    grounded = ground("Words.", FACTS, READER, cited=(cited,))
    (claim,) = grounded.claims
    assert claim.holds is holds
    assert claim.measured == 0.319
    assert struck(f"{MLP0} takes {value}.", (cited,)) == (0 if holds else 1)


def test_evidence_of_a_cited_finding_may_be_stated() -> None:
    text = f"{HEADS[1]} and {HEADS[3]} interact by 0.0147."
    assert struck(text) == 1
    assert struck(text, about=FINDINGS) == 0
    assert struck(f"{FINDINGS[1]}: {text}") == 0
    assert struck("Both of these two heads could be merged.", about=FINDINGS) == 0


def test_evidence_belongs_to_the_component_in_its_note() -> None:
    right = f"{HEADS[1]} has an ablation effect of 0.0031 and {HEADS[3]} has 0.0009."
    wrong = f"{HEADS[1]} has an ablation effect of 0.0009 and {HEADS[3]} has 0.0031."
    assert struck(right, about=FINDINGS) == 0
    assert struck(wrong, about=FINDINGS) == 1
    shares = f"{MLP0} has a criticality share of 8.1 %, {MLP1} of 14.7 %."
    assert struck(shares) == 0
    assert struck(shares.replace("8.1", "14.7")) == 1


def test_ids_without_letters_need_backticks() -> None:
    """In a plain sequence of modules a component may be called "2"."""
    parts = [*record().components, record().components[0].model_copy(update={"id": "7"})]
    facts = Facts(record(components=tuple(parts)))
    reader = Reader(facts, CARDS)
    assert ground("`7` is the embedding.", facts, reader).struck == 0
    assert ground("It has 7 heads.", facts, reader).struck == 1


def test_hidden_characters_are_gone() -> None:
    assert clean("a\x1b[31mb\u202ec\x00d\u200be") == "a[31mbcde"
    assert clean("ﬁve ９") == "five 9"
    assert struck(f"{MLP0} has a flops share of 3\u200b3 %.") == 1


def test_endless_sentences_are_struck_at_once() -> None:
    for piece in ("1 a ", "a1./#-", "1e", "1 x 10^", "two and ", "layers 1, "):
        begin = time.monotonic()
        assert struck(piece * 1000) >= 1
        assert time.monotonic() - begin < 10  # a pattern that explodes takes hours


def test_an_exact_check_agrees_with_a_slow_one() -> None:
    """Every rounding of a value is accepted, every other number of the same precision refused."""
    generator = random.Random(3)
    for _ in range(300):
        value = round(generator.uniform(0.001, 0.999), 6)
        digits = generator.randrange(1, 5)
        stated = generator.choice([round(value, digits), round(generator.random(), digits)])
        text = f"{MLP0} has a flops share of {stated:.{digits}f}."
        taken = dict(record().measurements)
        share = taken[MLP0][0].model_copy(update={"value": value})
        facts = Facts(record(measurements={**taken, MLP0: (share,)}, findings=()))
        expected = abs(value - stated) <= 0.5 * 10**-digits * (1 + 1e-9) and (
            stated != 0 or value < 0.5 * 10**-digits
        )
        found = ground(text, facts, Reader(facts, CARDS)).struck == 0
        assert found is expected, (text, value)


def test_noise_never_breaks_it_and_no_number_slips_through() -> None:
    generator = random.Random(5)
    words = [*HEADS[:3], MLP0, "flops share", "effective rank", "larger than", "twice", "half",
             "31.9 %", "0.0412", "12", "three", "layers 0 and 1", "f-00", "-", "%", ".", "\n",
             "x10^", "e5", "not", "of the", "heads", "٣", "²", "＄", "("]  # fmt: skip
    for _ in range(400):
        text = " ".join(generator.choices(words, k=generator.randrange(1, 14)))
        grounded = ground(text, FACTS, READER)
        json.dumps([claim.model_dump() for claim in grounded.claims], allow_nan=False)
        again = ground(grounded.text, FACTS, READER)
        assert all(claim.holds for claim in again.claims) or grounded.text != again.text
