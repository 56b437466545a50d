"""Subjects of one training run: prepared once per architecture, filled with each checkpoint."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from zsei.checkpoint.job import Job
from zsei.checkpoint.snapshot import read_weights
from zsei.checkpoint.tasks import Snapshot
from zsei.errors import DataError, ModelError
from zsei.records import digest
from zsei.subject.load import load_model
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.subject.types import Subject
from zsei.surgery.module_edit import ModuleEdit, apply_module_edit


@dataclass(eq=False, kw_only=True)
class Subjects:
    """Exporting a program takes seconds, replacing its weights almost nothing: so the last
    architecture stays, and only its weights change from checkpoint to checkpoint.
    """

    job: Job
    _known: tuple[str, Subject] | None = field(default=None, init=False)

    def at(self, snapshot: Snapshot) -> Subject:
        """The subject with the weights of a checkpoint. It is good until the next call.

        Raises:
            ModelError: The weights do not fit the model, or are no whole file.
            DataError: A weight is NaN or infinite.
        """
        weights = read_weights(snapshot)
        check_finite(weights)
        name = digest([edit.model_dump(mode="json") for edit in snapshot.edits])
        if self._known is None or self._known[0] != name:
            self._known = None  # never two in memory
            self._known = name, self._prepared(snapshot.edits, weights)
        else:
            put_weights(self._known[1].model, weights)
        subject = replace(self._known[1], model_hash=model_hash(self._known[1].model))
        self._known = name, subject
        return subject

    def _prepared(self, edits: tuple[ModuleEdit, ...], weights: dict[str, Tensor]) -> Subject:
        job = self.job
        model = job.model
        loaded = model if isinstance(model, nn.Module) else load_model(model, job.settings)  # type: ignore[arg-type]
        given = job.data if isinstance(loaded, nn.Module) else (job.data or loaded.data)
        module = loaded if isinstance(loaded, nn.Module) else loaded.model
        for edit in edits:
            module = apply_module_edit(module, edit)
        put_weights(module, weights)
        return prepare(module, given, job.objective, job.settings)


def check_finite(weights: dict[str, Tensor]) -> None:
    """Refuse weights that are no numbers.

    Raises:
        DataError: Naming the first parameter.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(
                f"The weights of a checkpoint are finite numbers; `{name}` holds NaN or infinity. "
                "Training has diverged, or the file is damaged."
            )


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a model in place, by name, tied ones once.

    Raises:
        ModelError: A name is missing or unknown, or a shape differs.
    """
    known = dict(model.state_dict(keep_vars=True))
    for name, tensor in weights.items():
        own = known.get(name)
        if own is None or own.shape != tensor.shape:
            has = "no such parameter" if own is None else f"{list(own.shape)} there"
            raise ModelError(
                f"A checkpoint must fit the model it is said to be of; `{name}` is "
                f"{list(tensor.shape)} in the checkpoint and {type(model).__name__} has {has}. "
                "Name the model that was trained, or the run whose cuts came before."
            )
    told = {own.data_ptr() for name, own in known.items() if name in weights}
    missing = [n for n, own in known.items() if n not in weights and own.data_ptr() not in told]
    if missing:
        raise ModelError(
            f"A checkpoint holds all weights of its model; {', '.join(missing[:3])} of "
            f"{type(model).__name__} is missing in it ({len(missing)} in all)."
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            known[name].copy_(tensor)
