"""Turns data of any supported kind into batches: calibration and held-out, never mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from zsei.errors import DataError
from zsei.settings import Settings
from zsei.subject.collect import collect, join
from zsei.subject.default_text import sibling_passages
from zsei.subject.encode import Accepts, Encoded, accepts, encode, fit
from zsei.subject.load import LoadedModel
from zsei.subject.rows import Rows
from zsei.subject.split import Split, split
from zsei.subject.types import Batch

LabelKind = Literal["none", "class", "value", "score", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Batches of one fixed shape, split so that no sample and no text stands on both sides."""

    input_names: tuple[str, ...]
    """Names of the inputs, in the order of `Batch.inputs`."""
    calibration: tuple[Batch, ...]
    held_out: tuple[Batch, ...]
    labels: LabelKind
    """What labels there are: class numbers [n], real values, a similarity score of rows 2i and
    2i + 1, or tokens [n, t]."""
    text: bool = False
    """Whether the inputs were made of text by the model's tokenizer."""
    notes: tuple[str, ...] = ()


def load_data(data: Any, loaded: LoadedModel, settings: Settings) -> Samples:
    """Samples for a model: read, fitted to its inputs, selected, split, encoded, batched.

    Args:
        data: None (text of the Python standard library, for models with a tokenizer), or anything
            `zsei.subject.collect.collect` takes; a mapping of names names the groups.
        loaded: The model, with its tokenizer if it has one.
        settings: `samples`, `batch_size`, `length` and `seed` are read.

    Raises:
        DataError: No data, too little, or data that does not fit the model.
    """
    model = accepts(loaded)
    if data is None:
        groups = _default(loaded, model, settings.samples)
    else:
        groups = collect(data, model.names, 8 * settings.samples)
    fitted = {}
    for name, rows in groups.items():
        if rows.texts and loaded.tokenizer is None:
            raise DataError(
                f"Text needs the model's tokenizer, and {loaded.source.name} brings none. Give "
                f"token ids (.npz or .jsonl with input_ids), or the folder that holds both."
            )
        fitted[name] = fit(rows, model, f"group {name!r}")
    fitted, label_notes = _unify_labels(fitted, model)
    if data is None:
        label_notes.append("No data was given: text of Python's standard library stands in.")
    parts = split(fitted, settings.samples, settings.seed, _rows_per_sample(fitted, model))
    return _batches(fitted, parts, loaded, model, settings, label_notes)


def _default(loaded: LoadedModel, model: Accepts, samples: int) -> dict[str, Rows]:
    if loaded.tokenizer is not None and model.tokens:
        return sibling_passages(samples)
    wanted = ", ".join(model.required or (model.main,))
    raise DataError(
        f"Only models with a tokenizer have default data; {loaded.source.name} takes {wanted}. "
        f"Give an .npz file with arrays so named (y for labels), a .csv, or tensors from Python."
    )


def _rows_per_sample(groups: dict[str, Rows], model: Accepts) -> int:
    """2 where a pair of texts becomes two rows of a batch, else 1."""
    pairs = any(rows.partners for rows in groups.values())
    return 2 if pairs and not model.joint_pairs and not model.encoder_decoder else 1


def _unify_labels(groups: dict[str, Rows], model: Accepts) -> tuple[dict[str, Rows], list[str]]:
    """Labels of all groups as tensors of one kind; dropped when a group has none."""
    notes: list[str] = []
    labels = [rows.labels for rows in groups.values()]
    if any(found is None for found in labels):
        if any(found is not None for found in labels):
            notes.append("Labels were left out: not every group has them.")
        return {name: replace(rows, labels=None) for name, rows in groups.items()}, notes
    names = sorted({n for found in labels if isinstance(found, tuple) for n in found})
    numbers = {name: i for i, name in enumerate(names)}
    if names and set(names) <= set(model.class_numbers):
        numbers = {name: model.class_numbers[name] for name in names}
    if names:
        notes.append("Classes: " + ", ".join(f"{n} = {numbers[n]}" for n in names[:20]) + ".")
    unified = {}
    for name, rows in groups.items():
        found = rows.labels
        if isinstance(found, tuple):
            found = torch.tensor([numbers[n] for n in found])
        elif names:
            raise DataError(
                f"Labels must be of one kind; some groups name classes and {name!r} has numbers. "
                f"Use names, or numbers, throughout."
            )
        assert isinstance(found, Tensor)
        if found.is_floating_point():
            found = found.to(model.dtype)
            if not bool(found.isfinite().all()):
                raise DataError(
                    f"Labels must be finite; group {name!r} has NaN or infinity. Leave those out."
                )
        unified[name] = replace(rows, labels=found if found.is_floating_point() else found.long())
    if _rows_per_sample(groups, model) == 2:
        unified, scaled = _scale_scores(unified)
        notes += scaled
    return unified, notes


def _scale_scores(groups: dict[str, Rows]) -> tuple[dict[str, Rows], list[str]]:
    """Gold similarities as numbers up to 1: scales to 5, 10 and 100 are divided."""
    found = {name: rows.labels for name, rows in groups.items() if isinstance(rows.labels, Tensor)}
    high = max(float(scores.max()) for scores in found.values())
    scale = next((s for s in (1, 5, 10, 100) if high <= s), None)
    low = min(float(scores.min()) for scores in found.values())
    if scale is None or low < (-1 if scale == 1 else 0):
        raise DataError(
            f"Scores of pairs must be similarities up to 1, 5, 10 or 100; these are {low:g} to "
            f"{high:g}. Rescale them to 0 .. 1."
        )
    scaled = {n: replace(groups[n], labels=scores.float() / scale) for n, scores in found.items()}
    return scaled, [] if scale == 1 else [f"Scores were divided by {scale}."]


def _kind(rows: Rows, pairs: bool) -> LabelKind:
    labels = rows.labels
    if not isinstance(labels, Tensor):
        return "none"
    if pairs:
        return "score"
    if labels.is_floating_point():
        return "value"
    return "class" if labels.ndim == 1 else "tokens"


def _batches(
    groups: dict[str, Rows], parts: Split, loaded: LoadedModel, model: Accepts,
    settings: Settings, notes: Sequence[str],
) -> Samples:  # fmt: skip
    step = _rows_per_sample(groups, model)
    size = _batch_size(len(parts.calibration), len(parts.held_out), loaded, settings, step)
    chosen = [*parts.calibration, *parts.held_out]
    taken = {
        name: groups[name].take([i for group, i in chosen if group == name]) for name in groups
    }
    used = {name: rows for name, rows in taken.items() if rows.size}
    joined = join(list(used.values()))
    # Row of each chosen sample in the joined rows: groups follow each other there.
    offsets, total = {}, 0
    for name, rows in used.items():
        offsets[name], total = total, total + rows.size
    order = []
    for group, _ in chosen:
        order.append(offsets[group])
        offsets[group] += 1
    joined = joined.take(order)
    encoded = encode(joined, model, loaded.tokenizer, settings.length,
                     getattr(loaded.model, "config", None))  # fmt: skip
    names = [group for group, _ in chosen for _ in range(step)]
    border = len(parts.calibration) * step
    total = len(names)
    calibration = _cut(encoded, names, range(0, border), size * step)
    held_out = _cut(encoded, names, range(border, total), size * step)
    used_rows = sum(batch.size for batch in (*calibration, *held_out))
    if used_rows < total:
        notes = [*notes, f"{total - used_rows} rows were left over: batches have one fixed size."]
    if parts.duplicates:
        notes = [*notes, f"{parts.duplicates} duplicates or overlapping pairs were left out."]
    kind = _kind(joined, step == 2)
    if encoded.labels is not None and encoded.labels.ndim == 2 and kind in ("none", "class"):
        kind = "tokens"
    return Samples(
        input_names=tuple(encoded.inputs),
        calibration=calibration,
        held_out=held_out,
        labels=kind,
        text=bool(joined.texts),
        notes=(*joined.notes, *notes),
    )


def _batch_size(
    calibration: int, held_out: int, loaded: LoadedModel, settings: Settings, step: int
) -> int:
    """Samples per batch: as even as possible and at most `batch_size` rows."""
    smaller = min(calibration, held_out)
    fixed = next(iter(loaded.shapes.values()), (None,))[0] if loaded.shapes else None
    if fixed is not None:
        if fixed > smaller * step or fixed % step:
            raise DataError(
                f"The program takes batches of exactly {fixed}; the data gives {smaller * step} "
                f"rows a side. Give more data, or export with a dynamic batch size."
            )
        return fixed // step
    most = max(1, settings.batch_size // step)
    batches = -(-smaller // most)
    return smaller // batches


def _cut(encoded: Encoded, groups: Sequence[str], rows: range, size: int) -> tuple[Batch, ...]:
    found = []
    for start in range(rows.start, rows.stop - size + 1, size):
        part = slice(start, start + size)
        found.append(
            Batch(
                inputs=tuple(tensor[part].contiguous() for tensor in encoded.inputs.values()),
                labels=None if encoded.labels is None else encoded.labels[part],
                mask=None if encoded.mask is None else encoded.mask[part],
                groups=tuple(groups[part]),
            )
        )
    return tuple(found)
