"""The history of an edited model: every step as data, and every step's bytes.

A log is a folder: `zsei-log.json` says what was done, `objects/` holds the files of every step, cut
at their tensors and kept once (`zsei.surgery.objects`), so that a step costs the disk what it
changed. Step 0 is the original; step n holds all edits since then. Rolling back to a step writes
its folder as it was, to the byte. A process killed at any moment leaves the log as it was before or
after the step: pieces are written first, and the history is replaced in one move.
"""

from collections import ChainMap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree

from filelock import FileLock
from torch import nn

from zsei.errors import ModelError, OutputError, UsageError
from zsei.records import Verdict
from zsei.settings import Settings
from zsei.subject.huggingface import TOKENIZER_FILES, load_folder
from zsei.subject.load import load_model
from zsei.subject.program import model_hash, parameter_count
from zsei.subject.types import Subject
from zsei.surgery.apply import EditedModel
from zsei.surgery.checksums import FILES, files_in, inside
from zsei.surgery.history import LOG, History, LogStep, read_history
from zsei.surgery.objects import KeptFile, Supply, keep_file, pieces_of_file, restore_file, sweep
from zsei.surgery.recipe import Form, saved_edit
from zsei.surgery.save import SENTENCE_FILES, save
from zsei.surgery.state import save_state, state_of, supply_of
from zsei.surgery.unedited import unedited
from zsei.surgery.whole import DRAFT, drafts_beside, new_folder, replace_file

OBJECTS = "objects"
LOCK = ".lock"
STATE = "state.safetensors"
"""Beside a program: parameters and buffers under the names of the user's own class."""
SOURCE_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "special_tokens_map.json", "added_tokens.json", "merges.txt", "spiece.model", "chat_template*",
    "preprocessor_config.json", *TOKENIZER_FILES, *SENTENCE_FILES,
)  # fmt: skip
"""What of a Hugging Face folder is the model and its tokenizer."""


@dataclass(frozen=True, kw_only=True)
class ModificationLog:
    """A model's history on disk: `start` it once, `append` every step, `rollback` to any."""

    folder: Path

    @classmethod
    def start(
        cls, folder: Path | str, subject: Subject, *, keep_original: bool = True
    ) -> "ModificationLog":
        """Begin a log with the original as step 0.

        Args:
            folder: A folder that does not exist yet or is empty.
            subject: The model before any edit; nothing of it is changed.
            keep_original: False leaves the original's large tensors out, where no later step has
                them as they were; rolling back to step 0 then needs the original.

        Raises:
            OutputError: The folder is not empty (see `open`) or cannot be written.
            SurgeryRefused: The subject has no program, or cannot be saved.
        """
        if (Path(folder) / LOG).is_file():
            raise OutputError(
                f"A log is started in a new folder; {folder} holds a log already; go on with it by "
                f"ModificationLog.open, or name another folder."
            )
        with new_folder(folder) as draft:
            store = draft / OBJECTS
            store.mkdir()
            step = _original(subject, store, keep_original)
            history = History(
                source=subject.source.name,
                model_class=type(subject.model).__name__,
                original_kept=keep_original,
                steps=(step,),
                times=(_now(),),
            )
            (draft / LOG).write_bytes(_json(history))
        return cls(folder=Path(folder))

    @classmethod
    def open(cls, folder: Path | str) -> "ModificationLog":
        """A log that was started before.

        Raises:
            ModelError: The folder holds no log, or a damaged one.
        """
        read_history(Path(folder))
        return cls(folder=Path(folder))

    @property
    def history(self) -> History:
        """All that was done so far, read from the disk."""
        return read_history(self.folder)

    @property
    def steps(self) -> tuple[LogStep, ...]:
        """Step 0, the original, and all steps after it."""
        return self.history.steps

    def append(
        self, edited: EditedModel, *, note: str = "", verdict: Verdict | None = None
    ) -> LogStep:
        """Add a step: the original with all edits of `edited`.

        Args:
            edited: From `apply_edits` on the subject that the log was started with.
            note: Why, for people.
            verdict: What the gate measured of it.

        Raises:
            UsageError: It is another model's.
            SurgeryRefused: It cannot be saved so that it loads back; the log is as it was.
            OutputError: The disk is full or not writable; the log is as it was.
        """
        with self._written_to() as history, drafts_beside(self.folder / LOG) as drafts:
            draft = drafts / "model"
            if edited.source.name != history.source:
                raise UsageError(
                    f"A log holds the steps of one model; {self.folder} is the log of "
                    f"{history.source}, and this is {edited.source.name}. Start another log."
                )
            form = _save_step(edited, draft)
            step = LogStep(
                number=len(history.steps),
                form=form,
                edits=tuple(saved_edit(edit) for edit in edited.edits),
                parameters_before=history.steps[-1].parameters_after,
                parameters_after=parameter_count(edited.model),
                state=model_hash(edited.model),
                tensors=state_of(edited.model),
                files=_kept(self.folder / OBJECTS, draft, files_in(draft)),
                verdict=verdict,
                note=note,
            )
            longer = history.model_copy(
                update={"steps": (*history.steps, step), "times": (*history.times, _now())}
            )
            replace_file(self.folder / LOG, _json(longer))
        return step

    def rollback(
        self,
        step: int,
        out: Path | str,
        *,
        model: str | Path | nn.Module | None = None,
        settings: Settings | None = None,
    ) -> LogStep:
        """Write the folder of a step, as it was to the byte; `zsei.load` loads it.

        The log itself stays as it is: later steps can be restored as well.

        Args:
            step: Its number; 0 is the original.
            out: A folder that does not exist yet or is empty.
            model: The original, where its tensors were left out of the log.
            settings: How the original may be loaded.

        Raises:
            UsageError: There is no such step, or the original is needed.
            ModelError: The log is damaged, or `model` is not the original. `out` is as it was.
            OutputError: `out` is not empty or cannot be written; it is as it was.
        """
        history = self.history
        if not 0 <= step < len(history.steps):
            raise UsageError(
                f"Steps of {self.folder} are 0 to {len(history.steps) - 1}; there is no step "
                f"{step}. `zsei log` shows them."
            )
        found = history.steps[step]
        if step == 0 and not history.original_kept and model is None:
            raise UsageError(
                f"The original's tensors were left out of {self.folder}; step 0 needs the "
                f"original, {history.source}. Name it with --model (model= in Python)."
            )
        supply = {} if model is None else _supply(model, found, settings or Settings())
        with new_folder(out) as draft:
            for kept in found.files:
                if not inside(kept.path):
                    raise ModelError(
                        f"{LOG} may name files inside a step's folder only; it names "
                        f"{kept.path!r}. Use a copy of the log."
                    )
                restore_file(self.folder / OBJECTS, kept, draft / kept.path, supply)
        return found

    @contextmanager
    def _written_to(self) -> Iterator[History]:
        """The history while no other process can write; what a killed one left is cleared away."""
        read_history(self.folder)
        try:
            with FileLock(self.folder / LOCK):
                history = self.history
                for path in self.folder.glob(f"{DRAFT}*"):
                    rmtree(path) if path.is_dir() else path.unlink()
                sweep(self.folder / OBJECTS, _pieces(history))
                yield history
        except OSError as error:
            raise OutputError(
                f"A step could not be added to {self.folder}: {error.strerror or error}. The log "
                f"is as it was; free some space or make the folder writable."
            ) from error


def _original(subject: Subject, store: Path, keep_original: bool) -> LogStep:
    """Step 0: the files the model came from where these are a folder, else the model saved."""
    form, files = "source", ()
    folder = Path(subject.source.location)
    if subject.source.kind == "huggingface" and folder.is_dir() and _holds(folder, subject):
        files = _kept(store, folder, _source_files(folder), tensors=keep_original)
    else:
        with drafts_beside(store) as drafts:
            form = _save_step(unedited(subject), drafts / "model")
            names = files_in(drafts / "model")
            files = _kept(store, drafts / "model", names, tensors=keep_original)
    count = parameter_count(subject.model)
    return LogStep(
        number=0,
        form=form,
        parameters_before=count,
        parameters_after=count,
        state=subject.model_hash,
        tensors=state_of(subject.model),
        files=files,
    )


def _holds(folder: Path, subject: Subject) -> bool:
    """Whether a folder still holds the very model that was prepared."""
    try:
        return model_hash(load_folder(folder).model) == subject.model_hash
    except ModelError:
        return False


def _source_files(folder: Path) -> list[str]:
    if (folder / FILES).is_file():
        return files_in(folder)
    found = {path for pattern in SOURCE_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _save_step(edited: EditedModel, draft: Path) -> Form:
    recipe = save(edited, draft)
    if recipe.form == "program":
        save_state(edited.model, draft / STATE)
    return recipe.form


def _kept(
    store: Path, folder: Path, names: Iterable[str], *, tensors: bool = True
) -> tuple[KeptFile, ...]:
    return tuple(keep_file(store, folder / name, name, tensors=tensors) for name in names)


def _supply(model: str | Path | nn.Module, original: LogStep, settings: Settings) -> Supply:
    """The original's tensors, from its folder or from the model itself."""
    if isinstance(model, str | Path) and original.form == "source" and Path(model).is_dir():
        paths = (Path(model) / kept.path for kept in original.files)
        found: Supply = ChainMap(*(pieces_of_file(path) for path in paths if path.is_file()))
        missing = {p for kept in original.files for p in kept.pieces} - found.keys()
    else:
        loaded = load_model(model, settings).model
        missing = model_hash(loaded) != original.state
        found = supply_of(loaded)
    if missing:
        raise ModelError(
            f"Step 0 is restored from the very model the log was started with; {model!s:.80} is "
            f"not that one, or was changed since. Name the original."
        )
    return found


def _pieces(history: History) -> set[str]:
    return {p for step in history.steps for kept in step.files for p in kept.pieces}


def _json(history: History) -> bytes:
    return (history.model_dump_json(indent=1) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
