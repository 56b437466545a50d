"""What a saved folder is and how it came to be, as data beside the weights."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from zsei.errors import ModelError
from zsei.records import Record
from zsei.surgery.apply import EditedModel, input_sizes
from zsei.surgery.checksums import FILES, FIX, check_sums
from zsei.surgery.edits import Edit, RemoveUnits
from zsei.surgery.module_edit import ModuleEdit

RECIPE = "zsei.json"
Form = Literal["huggingface", "module", "program"]

_ACTION = re.compile(r"(?<=[a-z])[A-Z].*")
"""All but the first word of the name of a kind of edit."""


class SavedEdit(Record):
    """One edit, by the component it was made at."""

    component: str
    kind: str
    units: tuple[int, ...] | None = None
    """None: the whole site."""
    action: str = "remove"
    """remove, bypass, or what else was done to the site."""
    details: dict[str, int | str | bool] = Field(default_factory=dict)
    """What else says how, such as the rank of a factorised linear."""


class SavedInput(Record):
    """One input of the model, with the shape it was proven on."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    largest: int | None = None
    """Largest whole number it held; None for other inputs."""


class Recipe(Record):
    """What a saved folder is, and how it came to be."""

    schema_version: Literal[1, 2] = 2
    """Since 2 the folder holds the checksums of its files."""
    form: Form
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
    difference: float | None = None
    """Largest difference of the outputs after loading, relative to the largest (at least 1). Not 0
    where transformers keeps a buffer in full precision that the model at hand held in half."""
    note: str = ""


def read_recipe(folder: Path) -> Recipe:
    """What a saved folder is, after its files were checked.

    Raises:
        ModelError: A file is missing or not as it was written, or `zsei.json` is not what it was.
    """
    if (folder / FILES).is_file():
        check_sums(folder)
    try:
        recipe = Recipe.model_validate_json((folder / RECIPE).read_bytes())
    except OSError as error:
        raise ModelError(
            f"A saved model needs all its files; {RECIPE} is missing from {folder}. {FIX}"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{RECIPE} in {folder} is not what this zsei writes ({str(error).splitlines()[0]}). "
            f"Update zsei, or save the model again."
        ) from error
    if recipe.schema_version >= 2 and not (folder / FILES).is_file():
        raise ModelError(
            f"A saved model needs all its files; {FILES} is missing from {folder}. {FIX}"
        )
    return recipe


def saved_edit(edit: Edit) -> SavedEdit:
    """An edit as data."""
    others = {
        field.name: getattr(edit, field.name)
        for field in fields(edit)
        if field.name not in ("site", "units")
    }
    return SavedEdit(
        component=edit.site.component,
        kind=edit.site.kind,
        units=edit.units if isinstance(edit, RemoveUnits) else None,
        action=_ACTION.sub("", type(edit).__name__).lower(),
        details={name: value for name, value in others.items() if value is not False},
    )


def recipe_of(edited: EditedModel, form: Form) -> Recipe:
    """The recipe of an edited model."""
    return Recipe(
        form=form,
        model_class=type(edited.model).__name__,
        source=edited.source.name,
        edits=tuple(saved_edit(edit) for edit in edited.edits),
        inputs=tuple(
            SavedInput(
                name=name,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype)[6:],
                largest=None if tensor.is_floating_point() else int(tensor.max()),
            )
            for name, tensor in zip(edited.input_names, edited.inputs, strict=True)
        ),
        sizes=input_sizes(edited.program) if form == "program" else None,
        module_edit=edited.module_edit if form == "module" else None,
        attention=getattr(edited.original_config, "_attn_implementation", None),
        note=edited.note,
    )
