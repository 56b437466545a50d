import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gate_subjects import CLASSIFICATION, FIDELITY
from torch import Tensor

from zsei.errors import DataError, ModelError
from zsei.gate import quality
from zsei.gate.quality import Quality, group_names, measure_quality, measure_reference
from zsei.subject.objective import Objective
from zsei.subject.types import Anatomy, Batch, ModelSource, Subject

EMBEDDING = Objective(name="fidelity", output="embedding", reason="asked for")
VALUES = Objective(name="fidelity", output="values", reason="asked for")
CAUSAL = Objective(name="causal-lm", output="logits", reason="asked for")
SIMILARITY = Objective(name="similarity", output="embedding", reason="asked for")


def subject(objective: Objective) -> Subject:
    """Quality needs a subject's objective and nothing else of it."""
    return Subject(
        source=ModelSource(name="none", kind="object"), model=torch.nn.Identity(), model_hash="",
        program=None, input_names=("x",), objective=objective, calibration=(), held_out=(),
        anatomy=Anatomy(components=(), nodes={}, outputs={}, sites=()),
    )  # fmt: skip


def batches(*shape: int, n: int = 12, size: int = 4, labels: Any = None) -> tuple[Batch, ...]:
    x = torch.randn(n, *shape)
    names = ["b", "a", "b"] * n
    return tuple(
        Batch(
            inputs=(x[i : i + size],),
            labels=None if labels is None else labels[i : i + size],
            groups=tuple(names[i : i + size]),
        )
        for i in range(0, n, size)
    )


def measure(
    objective: Objective, data: tuple[Batch, ...], edit: Callable[[Tensor], Tensor]
) -> Quality:
    one = subject(objective)
    reference = measure_reference(lambda batch: batch.inputs[0], one, data)
    return measure_quality(lambda batch: edit(batch.inputs[0]), one, data, reference)


def nudge(x: Tensor) -> Tensor:
    return x + 0.5 * torch.sin(3 * x).roll(1, -1)


def test_logits_sample_by_sample() -> None:
    data = batches(5)
    found = measure(FIDELITY, data, nudge)
    x = torch.cat([b.inputs[0] for b in data]).double().numpy()
    y = nudge(torch.from_numpy(x)).numpy()

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.exp(values) / np.exp(values).sum()

    for n in range(12):
        p, q = softmax(x[n]), softmax(y[n])
        assert found.divergence[n] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)
        assert found.agreement is not None
        assert found.agreement[n] == float(x[n].argmax() == y[n].argmax())
    assert 0 < found.agreement.mean() < 1
    assert (found.loss, found.correct, found.similarity, found.nonfinite) == (None,) * 3 + (0,)


def test_neighbours_are_sought_in_the_whole_set_not_in_a_batch() -> None:
    data = batches(6)
    found = measure(EMBEDDING, data, nudge)

    def neighbour(rows: np.ndarray, n: int) -> int:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit[n]
        return max((m for m in range(len(rows)) if m != n), key=lambda m: cosines[m])

    x = torch.cat([b.inputs[0] for b in data])
    before, after = x.double().numpy(), nudge(x).double().numpy()
    expected = [float(neighbour(before, n) == neighbour(after, n)) for n in range(12)]
    assert found.agreement is not None
    assert found.agreement.tolist() == expected
    assert 0 < sum(expected) < 12
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1)
    cosine /= np.linalg.norm(after, axis=1)
    assert found.divergence == pytest.approx(1 - cosine, abs=1e-5)


def test_values_do_not_agree_or_disagree() -> None:
    data = batches(3, 2)
    found = measure(VALUES, data, lambda x: 1.1 * x)
    assert found.agreement is None
    assert found.divergence == pytest.approx(np.full(12, 0.1), abs=1e-5)


def test_losses_and_right_answers_stand_in_pairs() -> None:
    labels = torch.randint(0, 5, (12,))
    data = batches(5, labels=labels)
    found = measure(CLASSIFICATION, data, nudge)
    x = torch.cat([b.inputs[0] for b in data])
    assert found.loss is not None
    assert found.correct is not None
    for side, values in enumerate((x, nudge(x))):
        expected = [
            -torch.log(values[n].softmax(-1)[labels[n]]).item() for n in range(12)
        ]  # fmt: skip
        assert found.loss[side] == pytest.approx(expected, rel=1e-4)
        right = [float(values[n].argmax() == labels[n]) for n in range(12)]
        assert found.correct[side].tolist() == right


def test_padding_does_not_count() -> None:
    mask = torch.tensor([[True, True, True, False]] * 12)
    data = tuple(
        dataclasses.replace(b, mask=mask[:4], labels=torch.zeros(4, 4, dtype=torch.long))
        for b in batches(4, 5)
    )

    def spoil_padding(x: Tensor) -> Tensor:
        return torch.where(mask[:4, :, None], x, -x)

    found = measure(CAUSAL, data, spoil_padding)
    assert found.divergence.tolist() == [0.0] * 12
    assert found.agreement is not None
    assert found.agreement.tolist() == [1.0] * 12


def test_pairs_carry_gold_and_cosines() -> None:
    gold = torch.rand(6).repeat_interleave(2)
    data = batches(4, labels=gold)
    found = measure(SIMILARITY, data, nudge)
    assert found.stride == 2
    assert found.similarity is not None
    x = torch.cat([b.inputs[0] for b in data])
    for values, cosines in ((x, found.similarity[1]), (nudge(x), found.similarity[2])):
        for pair in range(6):
            a, b = values[2 * pair], values[2 * pair + 1]
            expected = torch.cosine_similarity(a, b, dim=0).item()
            assert cosines[2 * pair : 2 * pair + 2] == pytest.approx([expected] * 2, abs=1e-5)
    assert found.similarity[0] == pytest.approx(gold.numpy())
    first = found.of_group(0)  # groups go b a b b a b ..: a pair has its first row's
    assert first.n == 2 * [0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0][::2].count(1)


def test_groups_are_numbered_in_the_order_of_their_names() -> None:
    data = batches(5)
    assert group_names(data) == ("a", "b")
    found = measure(FIDELITY, data, nudge)
    names = [name for b in data for name in b.groups]
    for number, name in enumerate(("a", "b")):
        rows = [n for n in range(12) if names[n] == name]
        assert found.of_group(number).divergence.tolist() == found.divergence[rows].tolist()
    assert group_names(tuple(dataclasses.replace(b, groups=()) for b in data)) == ("all",)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_ends_the_measurement(bad: float) -> None:
    def spoil(x: Tensor) -> Tensor:
        x = x.clone()
        x[0, :2] = bad
        return x

    found = measure(FIDELITY, batches(5), spoil)
    assert (found.nonfinite, found.n) == (2, 0)


def test_a_distance_that_overflows_is_no_number_either() -> None:
    found = measure(VALUES, batches(5), lambda x: x * 1e38)
    assert (found.nonfinite, found.n) == (12, 0)


def test_readouts_too_large_to_keep_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches(5, labels=torch.randint(0, 5, (12,)))
    kept = measure(CLASSIFICATION, data, nudge)
    monkeypatch.setattr(quality, "_KEPT_BYTES", 100)  # one batch is 80
    one, runs = subject(CLASSIFICATION), []

    def run(batch: Batch) -> Tensor:
        runs.append(batch)
        return batch.inputs[0]

    reference = measure_reference(run, one, data)
    assert [tensor is None for tensor in reference.kept] == [False, True, True]
    again = measure_quality(lambda b: nudge(b.inputs[0]), one, data, reference)
    assert len(runs) == 3 + 2
    assert again.divergence.tolist() == kept.divergence.tolist()


def test_half_precision_is_compared_in_single() -> None:
    data = tuple(dataclasses.replace(b, inputs=(b.inputs[0].bfloat16(),)) for b in batches(5))
    found = measure(FIDELITY, data, lambda x: x)
    assert found.divergence.dtype == np.float64
    assert found.divergence.tolist() == [0.0] * 12


def test_another_shape_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"\(4, 4\) instead of \(4, 5\)"):
        measure(FIDELITY, batches(5), lambda x: x[:, :4])


def test_an_original_that_gives_no_numbers_cannot_be_compared_with() -> None:
    with pytest.raises(ModelError, match="not finite"):
        measure_reference(lambda b: b.inputs[0] / 0, subject(FIDELITY), batches(5))
    with pytest.raises(DataError, match="got none"):
        measure_reference(lambda b: b.inputs[0], subject(FIDELITY), ())
