"""Saves an edited model so that it loads without the original and without running any code.

Three kinds of folder, the plainest that can hold the model:

- *huggingface*: where the config can say all shapes, what `save_pretrained` writes. Any program
  that reads Hugging Face folders loads it.
- *module*: a transformers class whose config cannot say them (uneven widths, BERT with fewer
  heads): the original's config, the weights as safetensors, and the edit as data that is replayed
  on the class before the weights are filled in.
- *program*: everything else: the edited program as `program.pt2`.

Each is loaded back and its outputs compared before the folder gets its name; nothing is pickled.
Parameters keep their precision. `zsei-files.json` holds the checksum of every file.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import ModelError, SurgeryRefused
from zsei.subject.archive import load_archive
from zsei.subject.huggingface import load_folder, quiet
from zsei.surgery.apply import EditedModel, ProgramModel, input_sizes
from zsei.surgery.checksums import FILES, write_sums
from zsei.surgery.module_edit import apply_module_edit
from zsei.surgery.module_form import equal, run
from zsei.surgery.recipe import RECIPE, Form, Recipe, read_recipe, recipe_of
from zsei.surgery.whole import new_folder

WEIGHTS = "model.safetensors"
PROGRAM = "program.pt2"
SENTENCE_FILES = (
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "1_Pooling/config.json",
)  # fmt: skip
"""Small files by which sentence-transformers folders say how to pool; they stay true."""


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
    with new_folder(folder) as draft, torch.random.fork_rng(devices=[]):
        # Building a class draws weights at random; the caller's random state is kept.
        recipe = _write(edited, draft)
        write_sums(draft)
    return recipe


def load(folder: Path | str) -> nn.Module:
    """Load a model that `save` wrote, in eval mode. No code in the folder is run.

    Raises:
        ModelError: The folder holds no such model, a file is missing or not as it was written, or
            its files do not belong together.
        UnsafeModelError: It holds what could only be loaded by running it.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file() and not (folder / FILES).is_file():
        with torch.random.fork_rng(devices=[]):
            return load_folder(folder).model.eval()
    recipe = read_recipe(folder)
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
        recipe = recipe_of(edited, form)
        try:
            with quiet():
                write(edited, draft)
                if edited.tokenizer is not None and hasattr(edited.tokenizer, "save_pretrained"):
                    edited.tokenizer.save_pretrained(draft)
            _copy_sentence_files(Path(edited.source.location), draft)
            back = _LOADERS[form](draft, Recipe.model_validate_json(recipe.model_dump_json()))
            found = run(back.eval(), edited.input_names, edited.inputs)
        except OSError:
            raise
        except Exception as error:  # the next form may do what this one cannot
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            continue
        if equal(found, edited.output):
            recipe = recipe.model_copy(update={"difference": _difference(found, edited.output)})
            text = json.dumps(recipe.model_dump(mode="json"), indent=1)
            (draft / RECIPE).write_text(text + "\n", encoding="utf-8")
            return recipe
        reason = "its outputs differ after loading"
    raise SurgeryRefused(f"The edited model cannot be saved so that it loads back: {reason}.")


def _possible(form: str, edited: EditedModel) -> bool:
    """Whether a form may hold the model; whether it does is then tried."""
    if form == "program":
        return True
    return edited.module_edit is not None and edited.original_config is not None


def _difference(found: Tensor, wanted: Tensor) -> float:
    finite = wanted.isfinite()
    if not bool(finite.any()):
        return 0.0
    found, wanted = found[finite].double(), wanted[finite].double()
    return float((found - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


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
    # In the precision it was saved in, which need not be full.
    return load_folder(folder, dtype="auto").model


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
            _take_precision(model, folder / WEIGHTS)
            load_model(model, folder / WEIGHTS)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"The files in {folder} do not belong together: {reason[:300]}. Save the model again."
        ) from error
    return model


def _take_precision(model: nn.Module, weights: Path) -> None:
    """Give parameters and buffers the precision in which a file holds them."""
    from safetensors.torch import load_file

    held = {name: tensor.dtype for name, tensor in load_file(weights).items()}
    # Of tied names the file holds one; whichever it is, it stands for the same parameter.
    for found in (model.named_parameters, model.named_buffers):
        for name, tensor in found(remove_duplicate=False):
            if name in held:
                tensor.data = tensor.data.to(held[name])


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


_WRITERS: dict[Form, Callable[[EditedModel, Path], None]] = {
    "huggingface": _write_huggingface,
    "module": _write_module,
    "program": _write_program,
}
_LOADERS: dict[str, Callable[[Path, Recipe], nn.Module]] = {
    "huggingface": _load_huggingface, "module": _load_module, "program": _load_program,
}  # fmt: skip
