"""Chooses the objective from head and data, says why, and refuses what cannot fit."""

from dataclasses import dataclass
from typing import Literal, cast

from zsei.errors import ObjectiveError
from zsei.subject.data import LabelKind
from zsei.subject.objective import OBJECTIVES, Objective, ObjectiveName, OutputKind

EMBEDDING_FIELDS = ("last_hidden_state", "text_embeds", "pooler_output")
LOGIT_FIELDS = ("logits", "prediction_logits", "start_logits")


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a model's main output is, and what the data offers to measure it with."""

    name: str
    """Class name of the model."""
    field: str
    """Field of the structured output that is the main one; "" for a bare tensor."""
    shape: tuple[int, ...]
    """Its shape [n, ...]."""
    labels: LabelKind
    label_shape: tuple[int, ...] = ()
    largest_label: int = 0
    """Largest class number in the data."""
    vocabulary: int | None = None
    """Tokens the model knows, where its input is tokens."""
    tokens: bool = False
    """Whether its input is token ids."""
    causal: bool = False
    """Whether earlier positions of [n, t, v] are blind to later tokens (measured)."""
    encoder_decoder: bool = False
    regression: bool = False
    """Whether its configuration says that its logits are real values."""
    can_mask: bool = False
    """Whether its tokenizer has a mask token."""
    pooling: Literal["mean", "first", "none"] = "none"


def output_kind(head: Head) -> OutputKind:
    """How the main output is to be read: logits, an embedding, or plain values."""
    if head.field in EMBEDDING_FIELDS or head.labels == "score":
        return "embedding"
    if head.regression or head.labels == "value":
        return "values"
    if head.field in LOGIT_FIELDS:
        return "logits"
    if head.field:
        return "values"
    if head.labels in ("class", "tokens") and _fits("classification", head) is None:
        return "logits"
    if head.tokens and len(head.shape) == 3:
        return "logits" if head.shape[-1] == head.vocabulary else "embedding"
    return "values"


def choose_objective(asked: str, head: Head) -> Objective:
    """The objective asked for, or for `auto` the most telling one that fits.

    Order of `auto`: similarity (gold scores), classification, regression (labels), causal-lm,
    masked-lm (a language model's head), else fidelity, which needs no labels.

    Raises:
        ObjectiveError: Unknown, or the one asked for does not fit the model or the data.
    """
    if asked not in ("auto", *OBJECTIVES):
        raise ObjectiveError(
            f"An objective is auto or one of {', '.join(OBJECTIVES)}; {asked!r} is none. Choose "
            f"one of these."
        )
    kind = output_kind(head)
    if asked != "auto":
        name = cast(ObjectiveName, asked)
        obstacle = _fits(name, head)
        if obstacle is not None:
            raise ObjectiveError(
                f"The objective {asked} needs {obstacle}. Use --objective auto or fidelity, or "
                f"give data that has it."
            )
        return _made(name, kind, head, "asked for")
    for name, reason in _reasons(head):
        if _fits(name, head) is None:
            return _made(name, kind, head, reason)
    return _made("fidelity", kind, head, _why_fidelity(kind, head))


def _made(name: ObjectiveName, kind: OutputKind, head: Head, reason: str) -> Objective:
    forced: dict[ObjectiveName, OutputKind] = {
        "classification": "logits", "causal-lm": "logits", "masked-lm": "logits",
        "regression": "values", "similarity": "embedding",
    }  # fmt: skip
    kind = forced.get(name, kind)
    pooling: Literal["mean", "first", "none"] = "none"
    if kind == "embedding" and len(head.shape) == 3:
        pooling = head.pooling if head.pooling != "none" else "mean"
    return Objective(name=name, output=kind, reason=reason, pooling=pooling)


def _reasons(head: Head) -> list[tuple[ObjectiveName, str]]:
    """Supervised objectives in the order in which `auto` tries them, each with its reason."""
    found: list[tuple[ObjectiveName, str]] = []
    if head.labels == "score":
        found.append(("similarity", "the data has pairs with gold scores"))
    if head.labels == "class":
        found.append(("classification", "the data has class labels that fit the model's logits"))
    if head.labels == "value":
        found.append(("regression", "the data has real labels in the shape of the output"))
    if head.labels == "tokens" and "TokenClassification" in head.name:
        found.append(("classification", "the data has a class for every token"))
    if not head.encoder_decoder or head.labels == "tokens":
        found.append(("causal-lm", "the model predicts each token from those before it"))
    if head.labels == "tokens" or ("MaskedLM" in head.name):
        found.append(("masked-lm", "the model fills in tokens from both sides"))
    return found


def _why_fidelity(kind: OutputKind, head: Head) -> str:
    what = {"logits": "class or token scores", "embedding": "an embedding", "values": "real values"}
    data = "has no labels" if head.labels == "none" else "has labels that do not fit that output"
    return f"the output is {what[kind]} and the data {data}"


def _fits(name: ObjectiveName, head: Head) -> str | None:
    """What is missing for an objective, in words; None when it fits."""
    shape = list(head.shape)
    scores = len(shape) >= 2 and head.field not in EMBEDDING_FIELDS and not head.regression
    if name == "fidelity":
        return None
    if name == "similarity":
        if head.labels != "score":
            return "pairs of inputs with gold scores, and the data has none"
        return None if len(shape) in (2, 3) else f"an embedding, and the output is {shape}"
    if name == "regression":
        if head.labels not in ("value", "class"):
            return f"real labels, and the data has {_called(head.labels)}"
        same = _count(head.shape) == _count(head.label_shape)
        return None if same else f"labels in the shape of the output {shape}, and they are " + str(
            list(head.label_shape))  # fmt: skip
    if name == "classification":
        if head.labels not in ("class", "tokens"):
            return f"class labels, and the data has {_called(head.labels)}"
        if not scores or shape[:-1] != list(head.label_shape) or shape[-1] < 2:
            return f"one score per class, and the output of {head.name} is {shape}"
        enough = head.largest_label < shape[-1]
        return None if enough else (
            f"labels below {shape[-1]}, the number of scores, and the data has "
            f"{head.largest_label}")  # fmt: skip
    return _language_obstacle(name, head, scores and len(shape) == 3)


def _language_obstacle(name: ObjectiveName, head: Head, scores: bool) -> str | None:
    if not head.tokens or not scores or (not head.field and head.shape[-1] != head.vocabulary):
        return (
            f"a model that scores every token of its vocabulary, and the output of {head.name} is "
            f"{list(head.shape)}"
        )
    if name == "causal-lm":
        return None if head.causal else (
            f"a model whose positions see only earlier tokens, and those of {head.name} see later "
            f"ones")  # fmt: skip
    if head.causal:
        return f"a model that sees both sides of a gap, and {head.name} sees the left only"
    if head.labels != "tokens" and not head.can_mask:
        return "a tokenizer with a mask token, and this model has none"
    return None


def _called(labels: LabelKind) -> str:
    return {"none": "no labels", "class": "class labels", "value": "real labels",
            "score": "scores of pairs", "tokens": "a label for every token"}[labels]  # fmt: skip


def _count(shape: tuple[int, ...]) -> int:
    """Entries per sample."""
    count = 1
    for size in shape[1:]:
        count *= size
    return count
