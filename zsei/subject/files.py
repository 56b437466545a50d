"""Reads data files: .txt, .jsonl, .csv, .npz, .npy, and folders of them."""

import csv
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from zsei.errors import DataError
from zsei.subject.rows import LABEL_FIELDS, TABLE, Rows, as_tensor, make_labels, rows_from_records

KNOWN = (".txt", ".jsonl", ".csv", ".tsv", ".npz", ".npy")
FEW = 4
"""With fewer paragraphs than this, a text file is taken line by line; then in pieces."""
PIECE = 400
"""Characters of a piece of a text that has neither paragraphs nor lines."""


def read_path(path: Path) -> dict[str, Rows]:
    """Samples of a file, or of each known file of a folder, by group name (the file's stem).

    Raises:
        DataError: Missing, empty, unreadable, or of an unknown kind.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in KNOWN)
        if not files:
            raise DataError(
                f"A data folder must hold {', '.join(KNOWN)} files; {path} has none. Name the "
                f"files, or the folder above or below."
            )
        return {file.stem: read_file(file) for file in files}
    return {path.stem: read_file(path)}


def read_file(path: Path) -> Rows:
    """Samples of one file, by its extension."""
    if not path.is_file():
        raise DataError(f"Data must be a file or folder; there is none at {path}. Check the path.")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return Rows(texts=split_text(_text(path)))
    if suffix == ".jsonl":
        return _read_jsonl(path)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path)
    if suffix in (".npz", ".npy"):
        return _read_numpy(path)
    raise DataError(
        f"Data files are {', '.join(KNOWN)}; {path.name} is none of them. Convert it, or give the "
        f"data from Python."
    )


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"Text files must be UTF-8; {path.name} is not ({error.reason} at byte "
            f"{error.start}). Convert it with iconv."
        ) from error
    if not text.strip():
        raise DataError(f"Data must hold at least two samples; {path.name} is empty. Give more.")
    return text


def split_text(text: str) -> tuple[str, ...]:
    """A text as samples: its paragraphs, else its lines, else pieces of about 400 characters."""
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) < FEW:
        parts = [line.strip() for line in text.splitlines() if line.strip()]
    if len(parts) < FEW and len(text) >= 2 * PIECE:
        parts, piece = [], ""
        for word in text.split():
            piece = f"{piece} {word}".strip()
            if len(piece) >= PIECE:
                parts.append(piece)
                piece = ""
        parts += [piece] if piece else []
    return tuple(parts)


def _read_jsonl(path: Path) -> Rows:
    records = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"Every line of a .jsonl file must be JSON; line {number} of {path.name} is not "
                f"({error}). Correct or delete it."
            ) from error
        if isinstance(record, str):
            record = {"text": record}
        if not isinstance(record, dict):
            raise DataError(
                f"Every line of a .jsonl file must be an object; line {number} of {path.name} is "
                f'a {type(record).__name__}. Write {{"text": ...}}.'
            )
        records.append(record)
    return rows_from_records(records, path.name)


def _read_csv(path: Path) -> Rows:
    text = _text(path)
    first = text.splitlines()[0]
    delimiter = max("\t,;", key=first.count) if path.suffix.lower() == ".csv" else "\t"
    lines = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    widths = {len(row) for row in lines}
    if len(widths) > 1:
        raise DataError(
            f"Every row of a .csv file must have as many columns as the first ({len(lines[0])}); "
            f"{path.name} has rows of {sorted(widths)}. Quote fields that hold the delimiter."
        )
    numeric = [all(_is_number(row[c]) for row in lines[1:] or lines) for c in range(len(lines[0]))]
    header = _header(lines, numeric)
    body = lines[1:] if header else lines
    if not body:
        raise DataError(f"Data must hold at least two samples; {path.name} has a header only.")
    if all(numeric):
        table = as_tensor([[float(cell) for cell in row] for row in body], path.name)
        return Rows(tensors={TABLE: table}, columns=tuple(header or ()))
    names = header or _guess_names(numeric, path.name)
    return rows_from_records([dict(zip(names, row, strict=True)) for row in body], path.name)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _header(lines: list[list[str]], numeric: list[bool]) -> list[str] | None:
    """Column names of the first row, or None when it is a sample like the others."""
    names = [cell.strip() for cell in lines[0]]
    lowered = {name.lower() for name in names}
    known = {"text", "sentence", "sentence1", "sentence2", "text1", "text2", *LABEL_FIELDS}
    titled = any(n and not _is_number(cell) for n, cell in zip(numeric, names, strict=True))
    if titled or lowered & known:
        return [name.lower() if name.lower() in known else name for name in names]
    return None


def _guess_names(numeric: list[bool], where: str) -> list[str]:
    """Names of columns without a header: one or two of text, and at most one of numbers."""
    texts, numbers = numeric.count(False), numeric.count(True)
    if texts > 2 or numbers > 1:
        raise DataError(
            f"A .csv file without a header may have one or two columns of text and one of numbers; "
            f"{where} has {texts} and {numbers}. Add a header such as text,label."
        )
    words = iter(["text"] if texts == 1 else ["sentence1", "sentence2"])
    return ["label" if number else next(words) for number in numeric]


def _read_numpy(path: Path) -> Rows:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"Arrays must be plain numbers saved by numpy; {path.name} cannot be read as such "
            f"({error}). Save it with numpy.savez and without objects."
        ) from error
    return rows_from_arrays({name: as_tensor(a, name) for name, a in arrays.items()}, path.name)


def rows_from_arrays(arrays: dict[str, torch.Tensor], where: str) -> Rows:
    """Named arrays as rows: those called `y`, `label` and the like are labels."""
    sizes = {name: a.shape[0] if a.ndim else 0 for name, a in arrays.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(
            f"All arrays must have one entry per sample; {where} has {listed}. Cut them to one "
            f"length."
        )
    label = next((name for name in LABEL_FIELDS if name in arrays), None)
    tensors = {name: array for name, array in arrays.items() if name != label}
    if not tensors or not next(iter(sizes.values())):
        raise DataError(f"Data must hold at least two samples; {where} is empty. Give more.")
    labels = None if label is None else make_labels(arrays[label].tolist(), f"{label} in {where}")
    return Rows(tensors=tensors, labels=labels, label_name=label or "")
