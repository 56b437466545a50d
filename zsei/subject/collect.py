"""Turns whatever holds data into named groups of rows: paths, tensors, loaders, texts."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsei.errors import DataError
from zsei.subject.files import KNOWN, read_path
from zsei.subject.rows import (
    INPUT_FIELDS,
    LABEL_FIELDS,
    PAIR_FIELDS,
    TEXT_FIELDS,
    TOKEN_FIELDS,
    Rows,
    as_tensor,
    make_labels,
    pad_tokens,
    rows_from_records,
)

GROUP = "data"
"""Name of the only group, when data comes without names."""


def collect(data: Any, input_names: Sequence[str], limit: int) -> dict[str, Rows]:
    """Groups of rows, by name.

    Args:
        data: A path, a list of paths, a list of texts or records, a tensor or array, (x, y), a
            mapping of input name -> tensor (with labels or without), a DataLoader or any iterable
            of batches, a torch or `datasets` data set, or a mapping of group name -> any of these.
        input_names: Names of forward's arguments: they tell a mapping of tensors from groups.
        limit: Rows to take from what may be endless; data sets give evenly spaced ones.

    Raises:
        DataError: Nothing of the above, empty, or of mismatching lengths.
    """
    if isinstance(data, Mapping) and not _is_batch(data, input_names):
        if not data:
            raise DataError("Data must hold at least two samples; an empty mapping arrived.")
        groups: dict[str, Rows] = {}
        for name, part in data.items():
            found = collect(part, input_names, limit)
            single = len(found) == 1
            groups |= {str(name) if single else f"{name}.{k}": r for k, r in found.items()}
        return groups
    if isinstance(data, str | Path):
        return _paths([data])
    if isinstance(data, list | tuple) and data and all(isinstance(d, Path) for d in data):
        return _paths(data)
    return {GROUP: _rows(data, input_names, limit)}


def _is_batch(data: Mapping[Any, Any], input_names: Sequence[str]) -> bool:
    """Whether a mapping holds the inputs of one model rather than groups."""
    if data and all(isinstance(value, Tensor | np.ndarray) for value in data.values()):
        # One known name is enough: another that forward does not know is then an error.
        return not set(data).isdisjoint({*input_names, *INPUT_FIELDS})
    pairs = {name for pair in PAIR_FIELDS for name in pair}
    known = {*input_names, *INPUT_FIELDS, *LABEL_FIELDS, *TOKEN_FIELDS, *TEXT_FIELDS, *pairs}
    plain = all(isinstance(v, Tensor | np.ndarray | list | tuple) for v in data.values())
    return bool(data) and plain and set(data) <= known


def _paths(paths: Iterable[str | Path]) -> dict[str, Rows]:
    groups: dict[str, Rows] = {}
    for path in paths:
        if isinstance(path, str) and ("\n" in path or len(path) > 1000):
            raise DataError(
                "A single string names a file; a text arrived. Give a list of texts instead."
            )
        for name, rows in read_path(Path(path).expanduser()).items():
            if name in groups:
                raise DataError(
                    f"Groups must have different names; {name!r} comes twice. Name them: "
                    f"--data first=PATH --data second=PATH."
                )
            groups[name] = rows
    return groups


def _rows(data: Any, input_names: Sequence[str], limit: int) -> Rows:
    if isinstance(data, Tensor | np.ndarray):
        return rows_from_batch(data, input_names)
    if isinstance(data, Mapping):
        return rows_from_batch(data, input_names)
    if hasattr(data, "column_names") and hasattr(data, "__getitem__"):
        return rows_from_records([dict(data[i]) for i in _spaced(len(data), limit)], "the data set")
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str):
        return rows_from_batch(data, input_names)
    if isinstance(data, torch.utils.data.Dataset) and hasattr(data, "__len__"):
        picked: Any = data
        return _from_items([picked[i] for i in _spaced(len(picked), limit)], input_names)
    if not isinstance(data, Iterable):
        raise DataError(
            f"Data is a path ({', '.join(KNOWN)}), texts, tensors, (x, y), a mapping, a DataLoader "
            f"or a data set; a {type(data).__name__} is none of these. Give a list or tensors."
        )
    return _from_iterable(data, input_names, limit)


def _spaced(size: int, limit: int) -> list[int]:
    """At most `limit` indices, evenly spaced over `size`."""
    count = min(size, limit)
    return [i * size // count for i in range(count)]


def _from_iterable(data: Iterable[Any], input_names: Sequence[str], limit: int) -> Rows:
    iterator = iter(data)
    first = list(islice(iterator, 1))
    if not first:
        raise DataError("Data must hold at least two samples; what was given is empty. Give more.")
    one = first[0]
    if isinstance(one, str) or (isinstance(one, Mapping) and not _has_batches(one)):
        items = [*first, *islice(iterator, limit - 1)] if not isinstance(data, list) else data
        if isinstance(one, str):
            items = [{"text": item} if isinstance(item, str) else item for item in items]
        if not all(isinstance(item, Mapping) for item in items):
            raise DataError("A list of texts must hold nothing but texts; other types are in it.")
        return rows_from_records(items, "the data")
    if isinstance(one, tuple) and len(one) == 2 and all(isinstance(part, str) for part in one):
        pairs = [{"sentence1": a, "sentence2": b} for a, b in [*first, *islice(iterator, limit)]]
        return rows_from_records(pairs, "the data")
    if isinstance(one, int | float):
        raise DataError(
            "A list of plain numbers is no data: which axis is the sample cannot be told. Give a "
            "tensor whose axis 0 is the sample."
        )
    return _from_batches([*first], iterator, input_names, limit)


def _has_batches(one: Mapping[Any, Any]) -> bool:
    return any(isinstance(v, Tensor) and v.ndim >= 1 for v in one.values())


def _from_batches(
    taken: list[Any], iterator: Any, input_names: Sequence[str], limit: int
) -> Rows:  # fmt: skip
    """Batches joined along the sample until there are `limit` rows; or items stacked."""
    if _is_item(taken[0]):
        return _from_items([*taken, *islice(iterator, limit - 1)], input_names)
    parts = [rows_from_batch(taken[0], input_names)]
    while sum(part.size for part in parts) < limit:
        following = list(islice(iterator, 1))
        if not following:
            break
        parts.append(rows_from_batch(following[0], input_names))
    return join(parts)


def _is_item(one: Any) -> bool:
    """Whether this is one sample (x, label) rather than a batch: its label has no axis."""
    if isinstance(one, Mapping):
        return False
    if isinstance(one, tuple | list) and len(one) == 2:
        label = one[1]
        scalar = isinstance(label, int | float) or getattr(label, "ndim", None) == 0
        return scalar and not isinstance(one[0], int | float)
    return isinstance(one, Tensor | np.ndarray) and one.ndim == 1


def _from_items(items: Sequence[Any], input_names: Sequence[str]) -> Rows:
    """Single samples, stacked: x, (x, y) or mappings."""
    if not items:
        raise DataError("Data must hold at least two samples; the data set is empty. Give more.")
    if isinstance(items[0], Mapping):
        return rows_from_records(items, "the data set")
    if isinstance(items[0], str):
        return rows_from_records([{"text": item} for item in items], "the data set")
    if isinstance(items[0], tuple | list):
        if isinstance(items[0][0], str):
            records = [{"text": item[0], "label": item[1]} for item in items]
            return rows_from_records(records, "the data set")
        x = _stack([item[0] for item in items])
        y = torch.as_tensor(np.asarray([np.asarray(item[1]) for item in items]))
        return rows_from_batch((x, y), input_names)
    return rows_from_batch(_stack(items), input_names)


def _stack(values: Sequence[Any]) -> Tensor:
    tensors = [as_tensor(value, "a sample") for value in values]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        listed = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        raise DataError(
            f"All samples must have one shape; these have {listed}. Pad or cut them to one length."
        )
    return torch.stack(tensors)


def rows_from_batch(batch: Any, input_names: Sequence[str]) -> Rows:
    """One batch: a tensor, (x, y), or a mapping with labels or without."""
    labels: Any = None
    if isinstance(batch, Tensor | np.ndarray):
        tensors = {"x": as_tensor(batch, "the data")}
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        inner, labels = batch
        if isinstance(inner, Mapping):
            tensors = {str(k): as_tensor(v, str(k)) for k, v in inner.items()}
        else:
            tensors = {"x": as_tensor(inner, "x")}
    elif isinstance(batch, tuple | list) and len(batch) == 1:
        tensors = {"x": as_tensor(batch[0], "the data")}
    elif isinstance(batch, Mapping):
        return _rows_from_mapping(batch, input_names)
    else:
        raise DataError(
            f"A batch is a tensor, (x, y) or a mapping of names to tensors; a "
            f"{type(batch).__name__} arrived. Give a mapping for models with several inputs."
        )
    if labels is not None and not isinstance(labels, Tensor):
        labels = make_labels(np.asarray(labels).tolist(), "y")
    return check_lengths(Rows(tensors=tensors, labels=labels))


def _rows_from_mapping(batch: Mapping[Any, Any], input_names: Sequence[str]) -> Rows:
    if any(isinstance(c, list | tuple) and c and isinstance(c[0], str) for c in batch.values()):
        columns = {name: list(column) for name, column in batch.items()}
        if len({len(column) for column in columns.values()}) > 1:
            raise DataError("All columns must have one entry per sample; their lengths differ.")
        samples = zip(*columns.values(), strict=True)
        rows = [dict(zip(columns, sample, strict=True)) for sample in samples]
        return rows_from_records(rows, "the data")
    # transformers' forward takes labels too, but a loss inside the model is not wanted.
    inputs = set(input_names) - {"labels"}
    label = next((n for n in LABEL_FIELDS if n in batch and n not in inputs), None)
    tensors: dict[str, Tensor] = {}
    for name, value in batch.items():
        if name == label:
            continue
        ragged = isinstance(value, list) and value and isinstance(value[0], list)
        if name in TOKEN_FIELDS and ragged:
            tensors |= pad_tokens(value, str(name))
        else:
            tensors[str(name)] = as_tensor(value, str(name))
    labels = None
    if label is not None:
        given = batch[label]
        labels = given.detach().cpu() if isinstance(given, Tensor) else (
            make_labels(np.asarray(given).tolist(), str(label)))  # fmt: skip
    return check_lengths(Rows(tensors=tensors, labels=labels))


def check_lengths(rows: Rows) -> Rows:
    """The rows, when all their tensors and labels have one entry per sample."""
    sizes = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in rows.tensors.items()}
    if rows.labels is not None:
        sizes["labels"] = len(rows.labels)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(
            f"Inputs and labels must have one entry per sample; these have {listed}. Cut them to "
            f"one length."
        )
    if not sizes or not next(iter(sizes.values())):
        raise DataError("Data must hold at least two samples; an empty batch arrived. Give more.")
    return rows


def join(parts: Sequence[Rows]) -> Rows:
    """Several rows of one kind as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        same = set(part.tensors) == set(first.tensors) and all(
            part.tensors[n].shape[1:] == first.tensors[n].shape[1:] for n in first.tensors
        )
        kinds = (bool(part.texts), bool(part.partners)) == (bool(first.texts), bool(first.partners))
        if not same or not kinds:
            shapes = [{n: list(t.shape) for n, t in p.tensors.items()} for p in (first, part)]
            raise DataError(
                f"All batches and groups must hold the same inputs in one shape; two have "
                f"{shapes[0]} and {shapes[1]}. Pad or cut them to one length."
            )
    labelled = [part.labels for part in parts]
    labels: Any = None
    if all(isinstance(part, Tensor) for part in labelled):
        labels = torch.cat([part for part in labelled if isinstance(part, Tensor)])
    elif all(isinstance(part, tuple) for part in labelled):
        labels = tuple(name for part in labelled if part is not None for name in part)
    return Rows(
        texts=tuple(text for part in parts for text in part.texts),
        partners=tuple(text for part in parts for text in part.partners),
        tensors={n: torch.cat([part.tensors[n] for part in parts]) for n in first.tensors},
        labels=labels,
        columns=first.columns,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )
