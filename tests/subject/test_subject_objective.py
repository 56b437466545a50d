"""Objectives against loops written out, and the probes against the divergences they predict."""

from typing import Any, Literal

import pytest
import torch
from oracles import objectives as oracle
from torch import Tensor

from zsei.errors import ObjectiveError
from zsei.subject.choose import Head, choose_objective, output_kind
from zsei.subject.objective import (
    IGNORED,
    Objective,
    ObjectiveName,
    OutputKind,
    agreement,
    correct,
    divergence,
    loss,
    predicted_divergence,
    probes,
    readout,
)
from zsei.subject.types import Batch

close = torch.testing.assert_close


def objective(
    name: ObjectiveName, output: OutputKind, pooling: Literal["mean", "first", "none"] = "none"
) -> Objective:
    return Objective(name=name, output=output, reason="", pooling=pooling)


def batch(n: int, labels: Tensor | None = None, mask: Tensor | None = None) -> Batch:
    return Batch(inputs=(torch.zeros(n, 1),), labels=labels, mask=mask)


MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()


# --- readout -----------------------------------------------------------------------------------


def test_readout_of_an_embedding_is_pooled_and_of_unit_length() -> None:
    hidden = torch.randn(3, 5, 4)
    found = readout(objective("fidelity", "embedding", "mean"), hidden, batch(3, mask=MASK))
    for n in range(3):
        mean = torch.stack([hidden[n, t] for t in range(5) if MASK[n, t]]).mean(0)
        close(found[n], mean / mean.norm())
    first = readout(objective("fidelity", "embedding", "first"), hidden, batch(3))
    close(first, hidden[:, 0] / hidden[:, 0].norm(dim=1, keepdim=True))
    plain = readout(objective("fidelity", "embedding", "mean"), hidden, batch(3))
    close(plain, torch.nn.functional.normalize(hidden.mean(1), dim=1))
    logits = torch.randn(3, 5, 4)
    assert readout(objective("causal-lm", "logits"), logits, batch(3)) is logits


# --- divergence and agreement ------------------------------------------------------------------


def test_divergence_of_logits_is_kl_over_real_positions() -> None:
    original, edited = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    found = divergence(objective("fidelity", "logits"), edited, original, batch(3, mask=MASK))
    close(found.tolist(), oracle.mean_kl(original, edited, MASK))
    one = divergence(objective("fidelity", "logits"), edited[:, 0], original[:, 0], batch(3))
    expected = [
        oracle.kl(original[n, 0].tolist(), edited[n, 0].tolist()) for n in range(3)
    ]  # fmt: skip
    close(one.tolist(), expected)


def test_divergence_of_embeddings_is_one_minus_cosine() -> None:
    original, edited = torch.nn.functional.normalize(torch.randn(2, 3, 8).double(), dim=-1)
    found = divergence(objective("fidelity", "embedding"), edited, original, batch(3))
    expected = [
        1 - oracle.cosine(a, b) for a, b in zip(edited.tolist(), original.tolist(), strict=True)
    ]
    close(found.tolist(), expected)


def test_divergence_of_values_is_relative_distance() -> None:
    original = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    edited = torch.tensor([[[3.0, 4.5]], [[1.0, 2.0]]])
    found = divergence(objective("fidelity", "values"), edited, original, batch(2))
    close(found, torch.tensor([0.1, 0.5]))


@pytest.mark.parametrize("output", ["logits", "embedding", "values"])
def test_divergence_of_nothing_changed_is_zero(output: OutputKind) -> None:
    values = torch.nn.functional.normalize(torch.randn(3, 6), dim=-1)
    assert torch.equal(
        divergence(objective("fidelity", output), values, values, batch(3)), torch.zeros(3)
    )


def test_agreement_is_the_share_of_unchanged_decisions() -> None:
    original, edited = torch.randn(2, 3, 5, 3)
    found = agreement(objective("fidelity", "logits"), edited, original, batch(3, mask=MASK))
    assert found is not None
    for n in range(3):
        steps = [t for t in range(5) if MASK[n, t]]
        same = [int(original[n, t].argmax() == edited[n, t].argmax()) for t in steps]
        assert found[n] == pytest.approx(sum(same) / len(same))
    before, after = torch.nn.functional.normalize(torch.randn(2, 12, 3), dim=-1)
    found = agreement(objective("fidelity", "embedding"), after, before, batch(12))
    assert found is not None
    pairs = zip(oracle.nearest(before), oracle.nearest(after), strict=True)
    assert found.tolist() == [float(a == b) for a, b in pairs]
    assert agreement(objective("fidelity", "values"), after, before, batch(12)) is None
    assert agreement(objective("fidelity", "embedding"), after[:2], before[:2], batch(2)) is None


# --- losses ------------------------------------------------------------------------------------


def test_language_losses() -> None:
    logits = torch.randn(3, 5, 7, dtype=torch.float64)
    labels = torch.randint(0, 7, (3, 5))
    labels[0, 3:] = IGNORED
    labels[2, 0] = IGNORED
    given = batch(3, labels)
    for name, ahead in (("causal-lm", 1), ("masked-lm", 0)):
        chosen = objective(name, "logits")  # type: ignore[arg-type]
        found = loss(chosen, logits, given)
        close(found.tolist(), oracle.cross_entropy(logits, labels, ahead))
        right = correct(chosen, logits, given)
        assert right is not None
        for n in range(3):
            steps = [t for t in range(5 - ahead) if labels[n, t + ahead] != IGNORED]
            hits = [int(logits[n, t].argmax() == labels[n, t + ahead]) for t in steps]
            assert right[n] == pytest.approx(sum(hits) / len(hits))


def test_classification_loss() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    chosen = objective("classification", "logits")
    found = loss(chosen, logits, batch(4, labels))
    expected = oracle.cross_entropy(logits[:, None].double(), labels[:, None], 0)
    close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    right = correct(chosen, logits, batch(4, labels))
    assert right is not None
    assert right.tolist() == (logits.argmax(1) == labels).float().tolist()


def test_regression_and_similarity_losses() -> None:
    values, labels = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    found = loss(objective("regression", "values"), values, batch(3, labels))
    close(found, torch.stack([((v - y) ** 2).mean() for v, y in zip(values, labels, strict=True)]))
    unit = torch.nn.functional.normalize(torch.randn(4, 6), dim=-1)
    gold = torch.tensor([0.2, 0.2, 0.9, 0.9])
    found = loss(objective("similarity", "embedding"), unit, batch(4, gold))
    for pair in (0, 1):
        rows = unit[2 * pair].tolist(), unit[2 * pair + 1].tolist()
        expected = (oracle.cosine(*rows) - float(gold[2 * pair])) ** 2
        assert found[2 * pair : 2 * pair + 2].tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_fidelity_has_no_loss() -> None:
    with pytest.raises(ObjectiveError, match="no slope"):
        loss(objective("fidelity", "logits"), torch.randn(2, 3), batch(2))
    assert correct(objective("regression", "values"), torch.zeros(2), batch(2)) is None


# --- probes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "shape"),
    [("logits", (6, 5)), ("logits", (3, 5, 6)), ("values", (3, 5, 6)), ("embedding", (6, 8))],
)
def test_probes_predict_the_divergence_of_a_small_change(
    output: OutputKind, shape: tuple[int, ...]
) -> None:
    """E (∂s/∂y · dy)² turns into KL, relative L2 or 1 - cos of y against y + dy."""
    generator = torch.Generator().manual_seed(3)
    clean = torch.randn(shape, generator=generator, dtype=torch.float64)
    change = 1e-3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    chosen, given = objective("fidelity", output), batch(shape[0])

    def read(y: Tensor) -> Tensor:
        return torch.nn.functional.normalize(y, dim=-1) if output == "embedding" else y

    y = clean.clone().requires_grad_(True)
    squares = torch.zeros(shape[0], dtype=torch.float64)
    draws = 3000
    for score in probes(chosen, read(y), given, draws, generator):
        (slope,) = torch.autograd.grad(score.sum(), y, retain_graph=True)
        squares += (slope * change).flatten(1).sum(1).square()
    predicted = predicted_divergence(chosen, squares / draws)
    measured = divergence(chosen, read(clean + change), read(clean), given)
    close(predicted, measured, rtol=0.15, atol=0)


def test_probes_of_one_sample_stand_at_right_angles() -> None:
    values = torch.zeros(3, 6, requires_grad=True)
    shifted = values + torch.ones(3, 6)
    found = probes(objective("fidelity", "values"), shifted, batch(3), 4, torch.Generator())
    slopes = torch.stack(
        [torch.autograd.grad(s.sum(), values, retain_graph=True)[0] for s in found]
    )
    for n in range(3):
        products = slopes[:, n] @ slopes[:, n].T
        close(products - products.diagonal().diag(), torch.zeros(4, 4), atol=1e-5, rtol=0)


def test_probes_follow_the_generator() -> None:
    values = torch.randn(3, 6)
    chosen = objective("fidelity", "logits")
    seeds = (0, 0, 1)
    a, b, c = (
        probes(chosen, values, batch(3), 2, torch.Generator().manual_seed(s)) for s in seeds
    )  # fmt: skip
    assert torch.equal(torch.stack(a), torch.stack(b))
    assert not torch.equal(torch.stack(a), torch.stack(c))


# --- the choice --------------------------------------------------------------------------------


def head(**changes: Any) -> Head:
    plain: dict[str, Any] = {"name": "Model", "field": "", "shape": (4, 6, 9), "labels": "none"}
    return Head(**(plain | changes))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"field": "logits"}, "logits"),
        ({"field": "last_hidden_state"}, "embedding"),
        ({"field": "prediction_outputs"}, "values"),
        ({"field": "regression_outputs"}, "values"),
        ({"field": "logits", "regression": True}, "values"),
        ({"shape": (4, 9), "labels": "class", "label_shape": (4,)}, "logits"),
        ({"shape": (4, 9), "labels": "class", "label_shape": (4,), "largest_label": 9}, "values"),
        ({"tokens": True, "vocabulary": 9}, "logits"),
        ({"tokens": True, "vocabulary": 50}, "embedding"),
        ({}, "values"),
    ],
)
def test_kind_of_the_output(changes: dict[str, Any], kind: str) -> None:
    assert output_kind(head(**changes)) == kind


LANGUAGE = {"field": "logits", "tokens": True, "vocabulary": 9}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({**LANGUAGE, "causal": True}, "causal-lm"),
        ({**LANGUAGE, "causal": True, "encoder_decoder": True}, "fidelity"),
        ({**LANGUAGE, "causal": True, "encoder_decoder": True, "labels": "tokens"}, "causal-lm"),
        ({**LANGUAGE, "name": "BertForMaskedLM", "can_mask": True}, "masked-lm"),
        ({**LANGUAGE, "name": "BertForMaskedLM"}, "fidelity"),
        ({**LANGUAGE, "name": "BertForTokenClassification", "labels": "tokens",
          "label_shape": (4, 6)}, "classification"),
        ({"shape": (4, 9), "labels": "score", "field": "pooler_output"}, "similarity"),
        ({"shape": (4, 9), "labels": "class", "label_shape": (4,)}, "classification"),
        ({"shape": (4, 1), "labels": "value", "label_shape": (4,)}, "regression"),
        ({"shape": (4, 2), "labels": "value", "label_shape": (4,)}, "fidelity"),
    ],
)  # fmt: skip
def test_auto(changes: dict[str, Any], name: str) -> None:
    assert choose_objective("auto", head(**changes)).name == name
