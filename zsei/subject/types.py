"""What a subject is made of: batches, sites, the anatomy, the subject itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from zsei.records import Component
from zsei.subject.program import Program

if TYPE_CHECKING:
    from zsei.subject.objective import Objective

UnitKind = Literal["head", "neuron", "channel", "branch", "layer", "expert", "width"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of one fixed shape, ready for the model. Axis 0 of every tensor is the sample n."""

    inputs: tuple[Tensor, ...]
    """One tensor per model input, in the order of `Subject.input_names`."""
    labels: Tensor | None = None
    """What the objective compares with: [n], [n, ...] or, for language models, [n, t]."""
    mask: Tensor | None = None
    """Bool [n, t]: True where a token is real rather than padding; None when nothing is padded."""
    groups: tuple[str, ...] = ()
    """Data group of each sample, length n."""

    @property
    def size(self) -> int:
        """Number of samples n."""
        return self.inputs[0].shape[0]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where units of one kind can be read, replaced and differentiated: one value."""

    component: str
    """Id of the component the units belong to, e.g. `encoder.layer.3/attention`."""
    kind: UnitKind
    node: str
    """Name of the program node (or of the module call) whose value is tapped."""
    axis: int | None
    """Axis of the value along which units lie; None: the whole value is one unit."""
    units: int
    """Number of units U."""
    unit_size: int = 1
    """Entries along `axis` per unit: `axis` has size units * unit_size, unit u owning the block
    [u * unit_size, (u + 1) * unit_size)."""
    unit_ids: tuple[str, ...] = ()
    """Id of each unit (U of them)."""
    source: str | None = None
    """For a layer: node of the value that enters it, so that identity can be tried."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a model is made of, read off its program."""

    components: tuple[Component, ...]
    nodes: Mapping[str, tuple[str, ...]]
    """Component id -> names of the program nodes it owns, in program order."""
    outputs: Mapping[str, str]
    """Component id -> node of the value it writes (a branch: before the residual join)."""
    sites: tuple[Site, ...]
    family: str = ""
    untapped: tuple[Site, ...] = ()
    """Sites whose units can only be removed, not traced: experts and the neurons inside them, whose
    values lie in no order of samples, and channels of residual streams (`width`, at the stream's
    first join), which are many values at once."""

    def component(self, component_id: str) -> Component:
        """The component with this id."""
        return self._components[component_id]

    def site(self, component_id: str, kind: UnitKind) -> Site | None:
        """The site of this kind at a component, if there is one."""
        return self._sites.get((component_id, kind))

    @cached_property
    def _components(self) -> Mapping[str, Component]:
        # Reversed: of two with one id the first counts.
        return {component.id: component for component in reversed(self.components)}

    @cached_property
    def _sites(self) -> Mapping[tuple[str, UnitKind], Site]:
        return {
            (site.component, site.kind): site for site in reversed((*self.sites, *self.untapped))
        }


Watch = Mapping[str, Callable[[Tensor], Tensor | None]]
"""Node name -> function called with its value; a tensor it returns replaces the value."""


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One ablation: these units of a site are replaced by `value`, all else is clean."""

    site: Site
    units: tuple[int, ...]
    value: Tensor | None
    """Replacement for the site's whole value, broadcastable to it; only the units' slice is used.
    None: for a layer, the value that entered it (identity)."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the model came from, so that an edited one can be saved and built again."""

    name: str
    """As the user named it: `demo:minilm`, a folder, `package.module:factory`, a class name."""
    kind: Literal["huggingface", "factory", "pt2", "object"]
    location: str = ""
    """Folder or hub name, `package.module:factory`, file, or empty."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its data and its objective, ready to be traced."""

    source: ModelSource
    model: nn.Module
    """The user's model in eval mode. Never changed: hashes before and after prove it."""
    model_hash: str
    program: Program | None
    """The exported program; None when export failed and module hooks stand in."""
    input_names: tuple[str, ...]
    """Names of forward's arguments, in the order of `Batch.inputs`."""
    objective: "Objective"
    calibration: tuple[Batch, ...]
    held_out: tuple[Batch, ...]
    anatomy: Anatomy
    tokenizer: Any = None
    notes: tuple[str, ...] = field(default=())
    """What a reader should know: why the program fell back, how many samples were left out."""
    left_out: tuple[Batch, ...] = ()
    """Samples whose output is NaN or infinite, in batches of the same size (filled up with others):
    nothing is measured on them but where they go wrong."""

    @property
    def fidelity(self) -> Literal["program", "modules"]:
        """How fine the analysis can look."""
        return "modules" if self.program is None else "program"
