"""What an analysis keeps between checkpoints, in the folder `state` of a run.

    000000031/            everything as it stood after epoch 31, put there in one move
        ledger.json       where the run stands (`zsei.checkpoint.ledger`)
        answer.json       what was answered
        history.safetensors   importance of units, by the numbers the run began with
        series.safetensors    what else is followed over the checkpoints
        sketch.safetensors    importance of single parameters
    answers/000000031.json    answers by epoch, so that a question asked again gets the same one
    damaged-000000031-3fa9/   what could not be read, kept for a person to look at

The move of the folder is the one moment at which an epoch counts: killed before it, the state is
that of the epoch before and the checkpoint is analysed again; killed after it, the answer is there.
The last two are kept, so one that is damaged costs an epoch and not the run.
"""

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from zsei.checkpoint.config import EleshConfig
from zsei.checkpoint.contracts import AnalysisReport, StructuralPruningDecision
from zsei.checkpoint.history.history import History
from zsei.checkpoint.history.history_file import load_history, save_history
from zsei.checkpoint.history.series import Series
from zsei.checkpoint.history.series_file import load_series, save_series
from zsei.checkpoint.history.sketch import Sketch, empty_sketch
from zsei.checkpoint.ledger import Ledger, with_decision
from zsei.errors import MemoryDamaged, OutputError, UsageError
from zsei.records import Record

KEPT, DAMAGED = 2, 3
"""Epochs, and damaged ones, that stay."""
ANSWERS = 64 * 2**20
"""Bytes of answers that stay, the newest, beside those of cuts that were approved."""


class KeptAnswer(Record):
    """An answer, and the idempotency key of its question."""

    request_key: str
    decision: StructuralPruningDecision
    report: AnalysisReport


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Everything that is carried from one checkpoint to the next."""

    ledger: Ledger
    history: History
    series: Series
    sketch: Sketch


def new_state(run: str, config: EleshConfig) -> State:
    """Of a run that begins."""
    return State(
        ledger=Ledger(run=run),
        history=History(kept=config.importance_history_epochs),
        series=Series(),
        sketch=empty_sketch(config.sketch_width, config.sketch_depth),
    )


def load_state(folder: Path, run: str, config: EleshConfig) -> tuple[State, tuple[str, ...]]:
    """The state of a run, and in words what could not be read of it.

    What is damaged is put beside, and the epoch before stands; where none does, all begins anew.

    Raises:
        UsageError: The folder holds the state of another run.
    """
    notes: list[str] = []
    for each in reversed(_epochs(folder)):
        try:
            state = _read(each, config)
        except (MemoryDamaged, UsageError, OSError, ValidationError, ValueError) as error:
            told = str(error) if isinstance(error, MemoryDamaged) else type(error).__name__
            notes.append(f"the state after epoch {int(each.name)} is damaged ({told})")
            _put_beside(each)
            continue
        if state.ledger.run != run:
            raise UsageError(
                f"A folder is that of one run; {folder.parent} holds `{state.ledger.run}`, and "
                f"this is `{run}`. Give each run a folder of its own."
            )
        if notes:
            notes.append(f"the state after epoch {state.ledger.epoch} stands")
        return _caught_up(folder, state), tuple(notes)
    if notes:
        notes.append("importance and series begin anew")
    return _caught_up(folder, new_state(run, config)), tuple(notes)


def _caught_up(folder: Path, state: State) -> State:
    """The state with the answers that were given after it: their epochs and cuts are known."""
    ledger = state.ledger
    later = (int(path.stem) for path in (folder / "answers").glob("[0-9]*.json"))
    for epoch in sorted(epoch for epoch in later if epoch > ledger.epoch):
        answer = kept_answer(folder, epoch)
        if answer is not None:
            asked = answer.decision.safety.verdict is not None
            ledger = with_decision(ledger, answer.decision, asked=asked)
    return replace(state, ledger=ledger)


def save_state(folder: Path, state: State, answer: KeptAnswer) -> None:
    """Put down the state after an epoch, whole or not at all.

    Raises:
        OutputError: It cannot be written; what was there before stands.
    """
    name = f"{state.ledger.epoch:09d}"
    draft = folder / f".{name}.{secrets.token_hex(4)}"
    try:
        try:
            draft.mkdir(parents=True)
            save_history(state.history, draft / "history.safetensors")
            save_series(state.series, draft / "series.safetensors")
            _write(draft / "sketch.safetensors", _sketch_bytes(state.sketch))
            _write(draft / "answer.json", answer.model_dump_json().encode())
            _write(draft / "ledger.json", state.ledger.model_dump_json().encode())
            if (folder / name).exists():  # of a run that begins anew in the folder of another
                _put_beside(folder / name)
            draft.rename(folder / name)
            _file_answer(folder, answer)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"The state of an analysis must be written whole, and {folder} cannot be "
            f"({error.strerror or error}). Free the disk or grant the permission."
        ) from error
    _tidy(folder, state.ledger)


def save_ledger(folder: Path, ledger: Ledger) -> None:
    """Put down what a run reported between two checkpoints.

    Raises:
        OutputError: It cannot be written.
    """
    known = _epochs(folder)
    if not known:
        return  # nothing was answered that could be reported on
    try:
        _write_whole(known[-1] / "ledger.json", ledger.model_dump_json().encode())
    except OSError as error:
        raise OutputError(
            f"What a run reports must be written down, and {folder} cannot be written "
            f"({error.strerror or error}). Free the disk or grant the permission."
        ) from error


def kept_answer(folder: Path, epoch: int) -> KeptAnswer | None:
    """The answer of an epoch; None when there is none that can be read."""
    for path in (_answer_file(folder, epoch), folder / f"{epoch:09d}" / "answer.json"):
        try:
            return KeptAnswer.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
    return None


def _read(folder: Path, config: EleshConfig) -> State:
    ledger = Ledger.model_validate_json((folder / "ledger.json").read_bytes())
    answer = KeptAnswer.model_validate_json((folder / "answer.json").read_bytes())
    history = load_history(folder / "history.safetensors")
    series = load_series(folder / "series.safetensors")
    sketch = _read_sketch(folder / "sketch.safetensors")
    if answer.decision.epoch != ledger.epoch:
        raise ValueError("ledger and answer are of two epochs")
    if sketch.table.shape != (config.sketch_depth, config.sketch_width):
        sketch = empty_sketch(config.sketch_width, config.sketch_depth)
        ledger = ledger.model_copy(update={"observed": {}})
    kept = config.importance_history_epochs
    if history.kept != kept:
        values = {name: rows[-kept:] for name, rows in history.values.items()}
        history = History(
            steps=history.steps[-kept:], values=values, momentum=history.momentum, kept=kept
        )
    return State(ledger=ledger, history=history, series=series, sketch=sketch)


def _sketch_bytes(sketch: Sketch) -> bytes:
    about = {"total": repr(sketch.total), "seed": str(sketch.seed)}
    return save({"table": np.ascontiguousarray(sketch.table)}, metadata=about)


def _read_sketch(path: Path) -> Sketch:
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            table = file.get_tensor("table")
        return Sketch(table=table, total=float(about["total"]), seed=int(about["seed"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise MemoryDamaged(
            f"A sketch is one whole safetensors file, and `{path.name}` is not "
            f"({type(error).__name__}: {error}). Take it away: it is then begun anew."
        ) from error


def _epochs(folder: Path) -> list[Path]:
    """Folders of whole epochs, oldest first."""
    return sorted(each for each in folder.glob("[0-9]*") if each.name.isdigit() and each.is_dir())


def _answer_file(folder: Path, epoch: int) -> Path:
    return folder / "answers" / f"{epoch:09d}.json"


def _file_answer(folder: Path, answer: KeptAnswer) -> None:
    path = _answer_file(folder, answer.decision.epoch)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, answer.model_dump_json().encode())


def _tidy(folder: Path, ledger: Ledger) -> None:
    """Take away what is too old, and drafts of processes that were killed."""
    known = _epochs(folder)
    old = known[:-KEPT]
    old += sorted(folder.glob("damaged-*"), key=lambda path: path.name)[:-DAMAGED]
    old += list(folder.glob(".[0-9]*"))
    for each in old:
        shutil.rmtree(each, ignore_errors=True)
    approved = {f"{cut.epoch:09d}" for cut in ledger.cuts.values()}
    room = ANSWERS
    for path in sorted((folder / "answers").glob("[0-9]*.json"), reverse=True):
        room -= 0 if path.stem in approved else path.stat().st_size
        if room < 0 and path.stem not in approved:
            path.unlink(missing_ok=True)


def _put_beside(folder: Path) -> None:
    with suppress(OSError):  # then it stays where it is, and the next whole epoch is newer
        folder.rename(folder.with_name(f"damaged-{folder.name}-{secrets.token_hex(2)}"))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(draft, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
