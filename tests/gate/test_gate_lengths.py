import dataclasses

import pytest
import torch
from gate_subjects import FIDELITY, subject_of
from torch import Tensor, nn

from zsei.gate.lengths import Shorter, measure_shorter
from zsei.subject.objective import Objective
from zsei.subject.types import Batch, Subject

CAUSAL = Objective(name="causal-lm", output="logits", reason="asked for")


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.words(tokens) * mask[:, :, None])


def subject(length: int = 10, *, left: bool = False, objective: Objective = FIDELITY) -> Subject:
    tokens = torch.arange(4 * length).reshape(4, length) % 20
    mask = torch.ones(4, length, dtype=torch.bool)
    mask[1, slice(0, 3) if left else slice(-3, None)] = False
    batch = Batch(
        inputs=(tokens, mask.long()), mask=mask, labels=tokens, groups=("a", "b", "a", "b")
    )
    return subject_of(Words().eval(), objective, [batch], [batch, batch], ("tokens", "mask"))


def shorter(one: Subject) -> Shorter:
    found, words = measure_shorter(one)
    assert found is not None, words
    assert words == f"{found.length} tokens"
    return found


@pytest.mark.parametrize("left", [False, True])
def test_the_padded_side_is_cut_off(left: bool) -> None:
    one = subject(left=left, objective=CAUSAL)
    found = shorter(one)
    kept = slice(5, 10) if left else slice(0, 5)
    assert found.length == 5
    for whole, half in zip(one.held_out, found.batches, strict=True):
        assert torch.equal(half.inputs[0], whole.inputs[0][:, kept])
        assert torch.equal(half.inputs[1], whole.inputs[1][:, kept])
        assert whole.mask is not None
        assert half.mask is not None
        assert torch.equal(half.mask, whole.mask[:, kept])
        assert half.mask.any(1).all()
        assert whole.labels is not None
        assert half.labels is not None
        assert torch.equal(half.labels, whole.labels[:, kept])
        assert half.groups == whole.groups


def test_the_original_is_measured_at_half_length() -> None:
    one = subject()
    found = shorter(one)
    with torch.no_grad():
        expected = one.model(*found.batches[0].inputs)
    assert torch.equal(found.reference.readout(0), expected)
    assert [s.component for s in found.anatomy.sites] == [s.component for s in one.anatomy.sites]


def test_labels_of_whole_samples_stay() -> None:
    one = subject()
    (batch, *_) = one.held_out
    labelled = dataclasses.replace(batch, labels=torch.arange(4))
    found = shorter(dataclasses.replace(one, held_out=(labelled,)))
    assert found.batches[0].labels is labelled.labels


def test_why_it_cannot_be_had() -> None:
    assert measure_shorter(subject(7)) == (None, "half the length is 3 tokens")
    pixels = Batch(inputs=(torch.randn(4, 12),))
    image = subject_of(nn.Linear(12, 3).eval(), FIDELITY, [pixels], [pixels], ("input",))
    assert measure_shorter(image) == (None, "inputs are not tokens")


class FixedLength(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 4), nn.Linear(4 * 10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.words(tokens).flatten(1))


def test_a_model_of_one_length_says_so() -> None:
    batch = Batch(inputs=(torch.zeros(4, 10, dtype=torch.long),))
    one = subject_of(FixedLength().eval(), FIDELITY, [batch], [batch], ("tokens",))
    found, words = measure_shorter(one)
    assert found is None
    assert words.startswith("the original does not run at 5 tokens: ")
