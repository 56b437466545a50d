"""Subjects of one training run: prepared once per architecture, filled with each checkpoint."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.ready import Ready, ready_for
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.snapshot import read_weights
from zsei.errors import DataError, ModelError
from zsei.records import digest
from zsei.settings import Settings
from zsei.subject.load import LoadedModel, from_module, load_model
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash, parameter_count, strip_prefix
from zsei.subject.types import Subject
from zsei.surgery.calls import tensor_of
from zsei.surgery.module_edit import ModuleEdit, apply_module_edit

WIDEST_OUTPUT = 2**24
"""Numbers of one batch's output, 64 MB: differentiating a loss holds about ten times that."""
LARGE = 50_000_000
"""Parameters from which a model takes half of the samples."""


@dataclass(eq=False, kw_only=True)
class Subjects:
    """Exporting a program takes seconds, replacing its weights almost nothing: so the last
    architecture stays, and only its weights change from checkpoint to checkpoint. The job's own
    model is never touched.
    """

    job: Job
    _known: tuple[str, Subject] | None = field(default=None, init=False)
    _ready: Ready | None = field(default=None, init=False)

    def at(self, snapshot: Snapshot) -> Subject:
        """The subject with the weights of a checkpoint. It is good until the next call.

        Raises:
            ModelError: The weights do not fit the model, or are no whole file.
            DataError: A weight is NaN or infinite.
        """
        weights = read_weights(snapshot)
        check_finite(weights)
        name = digest([edit.model_dump(mode="json") for edit in snapshot.edits])
        if self._known is None or self._known[0] != name or not reads_its_model(self._known[1]):
            self._known = self._ready = None  # never two in memory
            self._known = name, self._prepared(snapshot, weights)
        else:
            put_weights(self._known[1].model, weights)
            hold_at_zero(self._known[1].model, snapshot.masks)
        del weights
        subject = replace(self._known[1], model_hash=model_hash(self._known[1].model))
        self._known = name, subject
        return subject

    def ready(self) -> Ready:
        """What serves all checkpoints of the architecture that was asked for last."""
        if self._known is None:
            raise ValueError("no checkpoint was asked for yet")
        if self._ready is None:
            self._ready = ready_for(self._known[1])
        return self._ready

    def _prepared(self, snapshot: Snapshot, weights: dict[str, Tensor]) -> Subject:
        job = self.job
        # Weights that are mapped from a file cannot be replaced.
        settings = job.settings.model_copy(update={"stream": "never"})
        loaded = _loaded(job, settings)
        module = loaded.model
        if module is job.model and not snapshot.edits:
            module = copy.deepcopy(module)
        for edit in snapshot.edits:
            module = apply_module_edit(module, edit)
        module = module.float()  # half precision is too coarse to measure in
        put_weights(module, weights)
        hold_at_zero(module, snapshot.masks)
        loaded = replace(loaded, model=module)
        return prepare(loaded, job.data, job.objective, fitting(settings, module))


def _loaded(job: Job, settings: Settings) -> LoadedModel:
    model = job.model
    if isinstance(model, str):
        return load_model(model, settings)
    if isinstance(model, nn.Module):
        return from_module(model)
    made = model()
    module, data = made if isinstance(made, tuple) else (made, None)
    return from_module(module, data=data)


def fitting(settings: Settings, model: nn.Module) -> Settings:
    """Settings with data that a model of this size can be differentiated on in time and memory.

    A tape over a large vocabulary takes several copies of batch · length · vocabulary numbers, so
    batches get smaller, which changes only how samples are put together; a large model takes half
    of the samples. What the user set stays.
    """
    update: dict[str, int] = {}
    widest = max((max(p.shape) for p in model.parameters() if p.ndim == 2), default=1)
    most = max(1, WIDEST_OUTPUT // (settings.length * widest))
    if "batch_size" not in settings.model_fields_set and settings.batch_size > most:
        update["batch_size"] = most
    if "samples" not in settings.model_fields_set and parameter_count(model) > LARGE:
        update["samples"] = settings.samples // 2
    return settings.model_copy(update=update)


def reads_its_model(subject: Subject) -> bool:
    """Whether the program reads the very tensors of the model, so that new weights reach it."""
    if subject.program is None:
        return True
    own = {n: t.data_ptr() for n, t in subject.model.state_dict(keep_vars=True).items()}
    read = {
        strip_prefix(str(node.target)): tensor_of(subject.program.graph_module, node)
        for node in subject.program.graph_module.graph.nodes
        if node.op == "get_attr"
    }
    return all(own[name] == tensor.data_ptr() for name, tensor in read.items() if name in own)


def hold_at_zero(model: nn.Module, masks: Iterable[ModuleEdit]) -> None:
    """Put zero where a cut is held at zero.

    Raises:
        ModelError: The model has no such parameter.
    """
    known = dict(model.state_dict(keep_vars=True))
    with torch.no_grad():
        for cut in (cut for edit in masks for cut in edit.cuts):
            if cut.name not in known:
                raise ModelError(
                    f"What is held at zero must be a part of the model; {type(model).__name__} has "
                    f"no `{cut.name}`. Was it cut since? Then the mask goes with it."
                )
            known[cut.name].index_fill_(cut.axis, torch.tensor(cut.removed), 0)


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
