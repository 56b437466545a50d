"""Saves an edited model so that it loads without the original and without running any code.

Three kinds of folder, the plainest that can hold the model:

- *huggingface*: where the config can say all shapes, what `save_pretrained` writes. Any program
  that reads Hugging Face folders loads it.
- *module*: a transformers class whose config cannot say them (uneven widths, BERT with fewer
  heads): the original's config, the weights as safetensors, and the edit as data that is replayed
  on the class before the weights are filled in.
- *program*: everything else: the edited program as `program.pt2`.

Each is loaded back and its outputs compared before the folder gets its name; nothing is pickled.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn

from zsei.errors import ModelError, OutputError, SurgeryRefused
from zsei.records import Record
from zsei.subject.archive import load_archive
from zsei.subject.huggingface import load_folder, quiet
from zsei.surgery.apply import EditedModel, ProgramModel, input_sizes
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.module_edit import ModuleEdit, apply_module_edit
from zsei.surgery.module_form import equal, run

RECIPE = "zsei.json"
WEIGHTS = "model.safetensors"
PROGRAM = "program.pt2"
SENTENCE_FILES = (
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "1_Pooling/config.json",
)  # fmt: skip
"""Small files by which sentence-transformers folders say how to pool; they stay true."""


class SavedEdit(Record):
    """One edit, by the component it was made at."""

    component: str
    kind: str
    units: tuple[int, ...] | None
    """None: the whole layer."""


class SavedInput(Record):
    """One input of the model, with the shape it was proven on."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Recipe(Record):
    """What a saved folder is, and how it came to be."""

    schema_version: int = 1
    form: Literal["huggingface", "module", "program"]
    model_class: str
    source: str
    """As the user named the original model."""
    edits: tuple[SavedEdit, ...]
    inputs: tuple[SavedInput, ...]
    sizes: tuple[tuple[int | None, ...], ...] | None = None
    """For a program the sizes of each input it takes, null where any goes."""
    module_edit: ModuleEdit | None = None
    attention: str | None = None
    """Attention implementation of a transformers model."""
    note: str = ""


def save(edited: EditedModel, folder: Path | str) -> Recipe:
    """Save an edited model as the plainest kind of folder that can hold it.

    Args:
        edited: From `apply_edits`.
        folder: A folder that does not exist yet or is empty.

    Returns:
        What was written as `zsei.json`.

    Raises:
        OutputError: The folder is not empty or cannot be written; it is then as it was.
        SurgeryRefused: What was written does not give the same outputs when loaded back.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"An edited model is saved into a new folder; {folder} exists and is not empty. Name "
            f"another, or empty it."
        )
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".zsei-") as work:
            draft = Path(work) / "model"
            # Building a class draws weights at random; the caller's random state is kept.
            with torch.random.fork_rng(devices=[]):
                recipe = _write(edited, draft)
            if folder.exists():
                folder.rmdir()
            draft.rename(folder)
    except OSError as error:
        raise OutputError(
            f"The model could not be written to {folder}: {error.strerror or error}. Free some "
            f"space or name another folder."
        ) from error
    return recipe


def load(folder: Path | str) -> nn.Module:
    """Load a model that `save` wrote, in eval mode. No code in the folder is run.

    Raises:
        ModelError: The folder holds no such model, or its files do not belong together.
        UnsafeModelError: It holds what could only be loaded by running it.
    """
    folder = Path(folder)
    path = folder / RECIPE
    if not path.is_file():
        with torch.random.fork_rng(devices=[]):
            return load_folder(folder).model.eval()
    try:
        recipe = Recipe.model_validate_json(path.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{RECIPE} in {folder} is not what zsei writes ({str(error).splitlines()[0]}). Save "
            f"the model again."
        ) from error
    with torch.random.fork_rng(devices=[]):
        return _LOADERS[recipe.form](folder, recipe).eval()


def _write(edited: EditedModel, draft: Path) -> Recipe:
    """Write the first form that loads back to the same outputs."""
    reason = ""
    for form, write in _WRITERS.items():
        if not _possible(form, edited):
            continue
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        recipe = _recipe(edited, form)
        try:
            with quiet():
                write(edited, draft)
                if edited.tokenizer is not None and hasattr(edited.tokenizer, "save_pretrained"):
                    edited.tokenizer.save_pretrained(draft)
            _copy_sentence_files(Path(edited.source.location), draft)
            text = json.dumps(recipe.model_dump(mode="json"), indent=1)
            (draft / RECIPE).write_text(text + "\n", encoding="utf-8")
            found = run(load(draft), edited.input_names, edited.inputs)
        except OSError:
            raise
        except Exception as error:  # the next form may do what this one cannot
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            continue
        if equal(found, edited.output):
            return recipe
        reason = "its outputs differ after loading"
    raise SurgeryRefused(f"The edited model cannot be saved so that it loads back: {reason}.")


def _possible(form: str, edited: EditedModel) -> bool:
    """Whether a form may hold the model; whether it does is then tried."""
    if form == "program":
        return True
    return edited.module_edit is not None and edited.original_config is not None


def _recipe(edited: EditedModel, form: Literal["huggingface", "module", "program"]) -> Recipe:
    return Recipe(
        form=form,
        model_class=type(edited.model).__name__,
        source=edited.source.name,
        edits=tuple(
            SavedEdit(
                component=edit.site.component,
                kind=edit.site.kind,
                units=edit.units if isinstance(edit, RemoveUnits) else None,
            )
            for edit in edited.edits
        ),
        inputs=tuple(
            SavedInput(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype)[6:])
            for name, tensor in zip(edited.input_names, edited.inputs, strict=True)
        ),
        sizes=input_sizes(edited.program) if form == "program" else None,
        module_edit=edited.module_edit if form == "module" else None,
        attention=getattr(edited.original_config, "_attn_implementation", None),
        note=edited.note,
    )


def _write_huggingface(edited: EditedModel, draft: Path) -> None:
    edited.model.save_pretrained(draft)  # type: ignore[operator]


def _write_module(edited: EditedModel, draft: Path) -> None:
    from safetensors.torch import save_model

    edited.original_config.save_pretrained(draft)
    save_model(edited.model, str(draft / WEIGHTS))


def _write_program(edited: EditedModel, draft: Path) -> None:
    auto = torch.export.Dim.AUTO
    shapes = tuple(
        {axis: auto for axis, size in enumerate(sizes) if size is None}
        for sizes in input_sizes(edited.program)
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            edited.program.graph_module,
            edited.inputs,
            dynamic_shapes=shapes,
            strict=False,
        )
        torch.export.save(exported, draft / PROGRAM)


def _load_huggingface(folder: Path, recipe: Recipe) -> nn.Module:
    return load_folder(folder).model


def _load_module(folder: Path, recipe: Recipe) -> nn.Module:
    import transformers
    from safetensors.torch import load_model

    found: Any = getattr(transformers, recipe.model_class, None)
    known = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not known or recipe.module_edit is None:
        raise ModelError(
            f"{RECIPE} in {folder} must name a transformers class and its edit; it names "
            f"{recipe.model_class!r}. Install the transformers version it was saved with."
        )
    try:
        with quiet():
            config_class: Any = found.config_class
            config = config_class.from_pretrained(folder, local_files_only=True)
            config._attn_implementation = recipe.attention
            model = apply_module_edit(found(config), recipe.module_edit)
            load_model(model, folder / WEIGHTS)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"The files in {folder} do not belong together: {reason[:300]}. Save the model again."
        ) from error
    return model


def _load_program(folder: Path, recipe: Recipe) -> nn.Module:
    # Registers the operators that programs of transformers models call.
    import transformers.integrations.moe  # noqa: F401

    archive = load_archive(folder / PROGRAM)
    sizes = recipe.sizes or [given.shape for given in recipe.inputs]
    return ProgramModel(archive.model, [given.name for given in recipe.inputs], sizes)


def _copy_sentence_files(source: Path, draft: Path) -> None:
    for name in SENTENCE_FILES if source.is_dir() else ():
        if (source / name).is_file():
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, draft / name)


_WRITERS: dict[Literal["huggingface", "module", "program"], Callable[[EditedModel, Path], None]] = {
    "huggingface": _write_huggingface,
    "module": _write_module,
    "program": _write_program,
}
_LOADERS: dict[str, Callable[[Path, Recipe], nn.Module]] = {
    "huggingface": _load_huggingface, "module": _load_module, "program": _load_program,
}  # fmt: skip
