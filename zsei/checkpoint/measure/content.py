"""Names of measures by all that decides them: the keys of the cache.

What flows forward at a place depends on the weights in front of it, on the inputs and on how many
rows are kept; whatever needs gradients on all weights, the labels and the probes. Both depend on
the program, and to the last bit on the versions, the processor and the threads. A model that is no
program has code that cannot be seen from here, so nothing of it is kept.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from zsei.checkpoint.job import Job
from zsei.checkpoint.tasks import MeasureTask
from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import Ancestry
from zsei.subject.types import Site, Subject
from zsei.surgery.calls import tensor_of

FORMAT = 1
"""Another one when the same inputs give other numbers."""
READ: tuple[str, ...] = ("probes", "seed", "rows", "replacement", "truth_samples")
"""Settings that decide numbers."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What decides the measures of one architecture on one set of data."""

    program: str
    """The program with its sizes, and where it runs."""
    data: str
    """Calibration data and objective."""
    above: Mapping[tuple[str, str], tuple[str, ...]]
    """(component, kind) -> names of the constants that the place's values are computed from, or
    that its own component reads."""
    constants: Mapping[str, Tensor]
    """Name -> parameter or buffer, read where it lies."""

    def of_layer(self, subject: Subject, layer: int | None, task: MeasureTask, job: Job) -> str:
        """Key of everything measured in a layer."""
        return self._key("layer", layer, task.levels, self._everything(subject, job))

    def of_ablation(self, subject: Subject, task: MeasureTask, job: Job) -> str:
        """Key of the exact effects of units of a group."""
        layers = sorted(task.layers, key=str)
        asked = [layers, task.levels, task.ablate]
        return self._key("exact", asked, self._everything(subject, job))

    def of_values(self, site: Site, digests: Mapping[str, str], job: Job) -> str:
        """Key of what flows forward at a place."""
        pruning = job.config.elesh.structured_pruning
        limits = (
            pruning.channel_analysis.redundancy_threshold,
            pruning.attention_analysis.similarity_threshold,
        )
        above = [digests[name] for name in self.above[site.component, site.kind]]
        place = [site.component, site.kind, site.node]
        return self._key("values", place, job.settings.rows, limits, above)

    def _everything(self, subject: Subject, job: Job) -> list[object]:
        settings = [getattr(job.settings, name) for name in READ]
        # The hash leaves out buffers that are not saved; they are read off the program.
        hidden = set(self.constants) - set(subject.model.state_dict(keep_vars=True))
        buffers = [digest_of(self.constants[name]) for name in sorted(hidden)]
        config = job.config.elesh.model_dump(mode="json")
        return [subject.model_hash, buffers, settings, config]

    def _key(self, *parts: object) -> str:
        return digest_long([FORMAT, self.program, self.data, *parts])


def content_of(subject: Subject, sites: Iterable[Site], threads: int) -> Content | None:
    """What decides the measures of a subject; None where that cannot be told."""
    program = subject.program
    if program is None:
        return None
    nodes = program.graph_module.graph.nodes
    constants = {
        strip_prefix(str(node.target)): tensor_of(program.graph_module, node)
        for node in nodes
        if node.op == "get_attr"
    }
    calls = [
        f"{n.name}={n.op}:{n.target}{n.args}{n.kwargs}:{getattr(n.meta.get('val'), 'shape', '')}"
        for n in nodes
    ]
    where = [version("zsei"), torch.__version__, platform.machine(), threads,
             torch.backends.cpu.get_cpu_capability()]  # fmt: skip
    return Content(
        program=digest_long([calls, where]),
        data=_data(subject),
        above=_above(subject, program, sites),
        constants=constants,
    )


def digest_of(tensor: Tensor) -> str:
    """Of a tensor's shape, type and bytes."""
    value = tensor.detach().contiguous()
    hasher = hashlib.blake2b(f"{tuple(value.shape)}:{value.dtype}".encode(), digest_size=16)
    hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def digest_long(value: object) -> str:
    """64 hexadecimal digits over a value's canonical JSON: ids have twelve, too few for a cache."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _data(subject: Subject) -> str:
    """Of everything that goes into the pass beside the weights."""
    objective = subject.objective
    parts: list[object] = [objective.name, objective.output, objective.pooling]
    for batch in subject.calibration:
        tensors = [*batch.inputs, batch.labels, batch.mask]
        parts.append([None if t is None else digest_of(t) for t in tensors])
        parts.append(batch.groups)
    return digest_long([subject.input_names, parts])


def _above(
    subject: Subject, program: Program, sites: Iterable[Site]
) -> dict[tuple[str, str], tuple[str, ...]]:
    ancestry = Ancestry(program)
    by_name = {node.name: node for node in ancestry.nodes}
    found = {}
    for site in sites:
        own = {site.node, site.source or site.node, *subject.anatomy.nodes[site.component]}
        nodes = [by_name[name] for name in own if name in by_name]
        bits = 0
        for node in nodes:
            bits |= ancestry.bits[ancestry.index[node]] | 1 << ancestry.index[node]
        names = {
            strip_prefix(str(node.target))
            for i, node in enumerate(ancestry.nodes)
            if node.op == "get_attr" and bits >> i & 1
        }
        found[site.component, site.kind] = tuple(sorted(names))
    return found
