"""Samples as they were given, before they become a model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsei.errors import DataError

TEXT_FIELDS = ("text", "sentence", "content", "document", "question")
PAIR_FIELDS = (
    ("sentence1", "sentence2"), ("text1", "text2"), ("premise", "hypothesis"),
    ("question1", "question2"), ("source", "target_text"), ("anchor", "positive"),
)  # fmt: skip
LABEL_FIELDS = ("label", "labels", "score", "similarity_score", "target", "targets", "y")
TOKEN_FIELDS = ("tokens", "input_ids")
INPUT_FIELDS = ("x", "X", "inputs", "input", "features", "data", "images")
"""Names under which a model's first input may be given, beside its own name."""
IGNORED_FIELDS = ("id", "idx", "index", "split", "genre", "filename", "year")
TABLE = "table"
"""Name of a numeric table whose label column is told apart once the model is known."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n samples of one group: texts, pairs of texts, or tensors whose axis 0 is the sample."""

    texts: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    """Second text of each sample; empty where there are no pairs."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors by name of the model's input, or `x` for its first."""
    labels: Tensor | tuple[str, ...] | None = None
    label_name: str = ""
    """Under which name the labels came."""
    columns: tuple[str, ...] = ()
    """Column names of a numeric table."""
    families: tuple[str, ...] = ()
    """What each sample is a piece of; pieces of one thing stay on one side of the split."""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of samples n."""
        if self.texts:
            return len(self.texts)
        return next((tensor.shape[0] for tensor in self.tensors.values()), 0)

    def key(self, i: int) -> tuple[object, ...]:
        """What sample i is: equal keys are duplicates. One entry per text of a pair."""
        if self.texts:
            family = (("family", self.families[i]),) if self.families else ()
            texts = (self.texts[i], self.partners[i]) if self.partners else (self.texts[i],)
            return (*texts, *family)
        parts = [self.tensors[name][i].contiguous() for name in sorted(self.tensors)]
        return (b"".join(part.view(-1).view(torch.uint8).numpy().tobytes() for part in parts),)

    def take(self, indices: Sequence[int]) -> "Rows":
        """The samples at these indices, in this order."""
        wanted = torch.tensor(list(indices), dtype=torch.long)
        labels = self.labels
        if isinstance(labels, Tensor):
            labels = labels[wanted]
        elif labels is not None:
            labels = tuple(labels[i] for i in indices)
        return replace(
            self,
            texts=tuple(self.texts[i] for i in indices) if self.texts else (),
            partners=tuple(self.partners[i] for i in indices) if self.partners else (),
            families=tuple(self.families[i] for i in indices) if self.families else (),
            tensors={name: tensor[wanted] for name, tensor in self.tensors.items()},
            labels=labels,
        )


def as_tensor(value: Any, where: str) -> Tensor:
    """A tensor, numpy array or nested list of numbers as a tensor.

    Raises:
        DataError: Its entries are no numbers, or rows differ in length.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype == object or array.dtype.kind not in "biuf":
            raise ValueError(f"entries of type {array.dtype}")
        return torch.from_numpy(np.ascontiguousarray(array))
    except (ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise DataError(
            f"Numbers must form an array of one shape; {where} does not ({reason}). Pad or cut "
            f"the rows to one length, and leave out what is no number."
        ) from error


def rows_from_records(records: Sequence[Mapping[str, Any]], where: str) -> Rows:
    """Rows of dictionaries: `text`, pairs such as `sentence1`/`sentence2`, `tokens`, `label`.

    Other fields that hold numbers become tensors named like the field.
    """
    if not records:
        raise DataError(f"Data must hold at least two samples; {where} is empty. Give more.")
    fields = [name for name in records[0] if name not in IGNORED_FIELDS]
    for number, record in enumerate(records, 1):
        missing = [name for name in fields if record.get(name) is None]
        if missing:
            raise DataError(
                f"Every sample must have the same fields; sample {number} of {where} lacks "
                f"{missing[0]!r}. Complete it or leave it out."
            )
    columns = {name: [record[name] for record in records] for name in fields}
    pair = next((p for p in PAIR_FIELDS if p[0] in columns and p[1] in columns), None)
    label = next((name for name in LABEL_FIELDS if name in columns), None)
    labels = None if label is None else make_labels(columns[label], f"{label} in {where}")
    if pair is not None:
        return Rows(texts=_texts(columns[pair[0]], where), partners=_texts(columns[pair[1]], where),
                    labels=labels)  # fmt: skip
    text = next((name for name in TEXT_FIELDS if name in columns), None)
    if text is not None:
        return Rows(texts=_texts(columns[text], where), labels=labels)
    tokens = next((name for name in TOKEN_FIELDS if name in columns), None)
    if tokens is not None and not isinstance(columns[tokens][0], str):
        padded = pad_tokens(columns[tokens], f"{tokens} in {where}")
        given = {"attention_mask": as_tensor(columns["attention_mask"], where)} if (
            "attention_mask" in columns) else {}  # fmt: skip
        return Rows(tensors={**padded, **given}, labels=labels)
    tensors = {
        name: as_tensor(column, f"{name} in {where}")
        for name, column in columns.items()
        if name != label
    }
    if not tensors:
        raise DataError(
            f"Samples must have a field text, sentence1 and sentence2, tokens, or one named like "
            f"the model's input; {where} has {', '.join(fields) or 'none'}. Rename the field."
        )
    return Rows(tensors=tensors, labels=labels)


def _texts(column: Sequence[Any], where: str) -> tuple[str, ...]:
    for value in column:
        if not isinstance(value, str):
            raise DataError(
                f"Text fields must hold text; {where} holds a {type(value).__name__}. Use the "
                f"field tokens for token ids."
            )
    return tuple(column)


def pad_tokens(column: Sequence[Sequence[int]], where: str) -> dict[str, Tensor]:
    """Lists of token ids as `input_ids` [n, t], with an `attention_mask` where lengths differ."""
    rows = [as_tensor(ids, where).long() for ids in column]
    if any(row.ndim != 1 or not len(row) for row in rows):
        raise DataError(f"Token ids must be non-empty lists; {where} holds another. Leave it out.")
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    if bool((lengths == ids.shape[1]).all()):
        return {"input_ids": ids}
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def make_labels(values: Sequence[Any], where: str) -> Tensor | tuple[str, ...]:
    """Labels as whole numbers (classes), real numbers (targets) or names of classes."""
    if values and all(isinstance(value, str) for value in values):
        try:
            values = [float(value) for value in values]
        except ValueError:
            return tuple(str(value) for value in values)
        if all(value.is_integer() for value in values):
            values = [int(value) for value in values]
    return as_tensor(list(values), where)
