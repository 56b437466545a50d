"""The search behind dependency groups: cuts spread from call to call until nothing new goes."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, fx

from zsei.errors import SurgeryRefused
from zsei.subject.reading import is_weighted, operation, shape
from zsei.surgery.axes import call_axes
from zsei.surgery.calls import is_taken, refuse
from zsei.surgery.labels import CallAxes, Label
from zsei.surgery.layout import layout_axes
from zsei.surgery.repeats import copy_classes, fold, whole_classes


@dataclass(frozen=True, kw_only=True)
class Selection:
    """An operand shared with others: it stays whole, and this consumer selects what it keeps."""

    consumer: str
    operand: str
    axis: int
    kept: tuple[int, ...]


def entries(mask: Tensor) -> tuple[int, ...]:
    """The numbers of the entries a mask marks, ascending."""
    return tuple(mask.nonzero().flatten().tolist())


def active_values(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Values computed through products with weights or looked up for what came in.

    Masks and position biases are neither.
    """
    found: set[fx.Node] = set()
    fed: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(a in fed for a in node.all_input_nodes):
            fed.add(node)
        looked_up = operation(node) == "embedding" and node.args[1] in fed
        if is_weighted(node) or looked_up or any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


class _NotPrivate(SurgeryRefused):
    """A cut from a side operand reached what other parts of the model compute."""


@dataclass
class Search:
    """The state of one search: what is known to go so far, and which calls must be looked at."""

    twins: Mapping[fx.Node, Sequence[fx.Node]]
    active: set[fx.Node]
    passes: dict[fx.Node, CallAxes] = field(default_factory=dict)
    """Calls that mix entries along a cut, passed all the same for a reason of the cut's own."""
    passive: bool = False
    """Whether reaching an active value ends the search (it asks if an operand is private)."""
    barred: fx.Node | None = None
    removed: dict[fx.Node, dict[int, Tensor]] = field(default_factory=dict)
    selections: dict[tuple[fx.Node, fx.Node], Selection] = field(default_factory=dict)
    queue: deque[fx.Node] = field(default_factory=deque)

    def cut(self, node: fx.Node, axis: int, mask: Tensor) -> None:
        """Add entries to what goes along one axis of a value."""
        for twin in self.twins.get(node, (node,)):
            known = self.removed.get(twin, {}).get(axis)
            total = mask if known is None else known | mask
            if known is not None and torch.equal(known, total):
                continue
            if total.all():
                raise refuse(node, f"would lose every entry along axis {axis}; keep at least one.")
            if twin.op == "placeholder":
                raise refuse(node, "is an input of the model; its shape cannot change.")
            if self.passive and twin in self.active:
                raise _NotPrivate(twin.name)
            self.removed.setdefault(twin, {})[axis] = total
            if twin.op == "call_function":
                producer = twin.args[0] if is_taken(twin) else twin
                assert isinstance(producer, fx.Node)
                self.queue.append(producer)
            self.queue.extend(twin.users)

    def run(self) -> None:
        """Look at calls until nothing new goes."""
        while self.queue:
            self.visit(self.queue.popleft())

    def visit(self, call: fx.Node) -> None:
        """Spread what goes of a call's operands and results to each other."""
        if call is self.barred:
            return
        if call.op == "output":
            last = call.all_input_nodes[0]
            raise refuse(last, "is the model's output; its shape cannot change.")
        axes = self.passes.get(call) or layout_axes(call) or call_axes(call)
        if axes is None:
            raise refuse(call, "is a call that surgery cannot see through.")
        self._link(axes)
        self._tie(call, axes)

    def _link(self, axes: CallAxes) -> None:
        for link in axes.links:
            (source, i), (target, j) = link.source, link.target
            known = self.removed.get(source, {}).get(i)
            if known is not None and known[link.index].any():
                self.cut(target, j, known[link.index])
            known = self.removed.get(target, {}).get(j)
            if known is not None:
                back = torch.zeros(shape(source)[i], dtype=torch.bool)
                back[link.index[known]] = True
                self.cut(source, i, back)

    def _tie(self, call: fx.Node, axes: CallAxes) -> None:
        """Spread what goes along one label to all axes with that label."""
        places = [
            (value, axis, label)
            for value, labels in axes.values
            for axis, label in enumerate(labels)
        ]
        known = self._known(call, places)
        for value, axis, label in places:
            if isinstance(label, tuple):
                mask = _product(known, label)
                if mask.any():
                    self._give(call, axes, value, axis, mask)
            elif label in known:
                self._share(call, axes, value, axis, known[label])

    def _known(
        self, call: fx.Node, places: Sequence[tuple[fx.Node, int, Label]]
    ) -> dict[str, Tensor]:
        """What goes along each label of a call, by what is known of its operands and results."""
        known: dict[str, Tensor] = {}
        members: dict[str, list[tuple[fx.Node, int]]] = {}
        for value, axis, label in places:
            mask = self.removed.get(value, {}).get(axis)
            if isinstance(label, str):
                members.setdefault(label, []).append((value, axis))
            elif mask is not None and label is None:
                raise refuse(
                    call, f"works along axis {axis} of `{value.name}`, which must stay whole."
                )
            elif mask is not None and label is not None:
                for name, part in factors(call, mask, label).items():
                    known[name] = known[name] | part if name in known else part
        for label, own in members.items():
            total = self._total(own, known.get(label))
            if total is not None:
                known[label] = total
        return known

    def _total(self, places: Sequence[tuple[fx.Node, int]], seed: Tensor | None) -> Tensor | None:
        """All that goes along a label, told by the members whose entries are their own."""
        size = max(shape(value)[axis] for value, axis in places)
        total = torch.zeros(size, dtype=torch.bool) if seed is None else seed.clone()
        for value, axis in places:
            mask = self.removed.get(value, {}).get(axis)
            if mask is None or len(mask) == 1:
                continue
            classes = _serving(value, axis, size)
            if classes is None:
                total |= mask
            elif len(mask) == size:
                # Copies: those of this call's own partners are decided there, not here.
                own = [p for p in places if _serving(*p, size) is None and shape(p[0])[p[1]] > 1]
                total |= whole_classes(mask, classes) if own else mask
            else:
                total |= mask[classes]
        return total if total.any() else None

    def _share(
        self, call: fx.Node, axes: CallAxes, value: fx.Node, axis: int, total: Tensor
    ) -> None:
        size = shape(value)[axis]
        if size == 1 and len(total) > 1:
            return
        classes = _serving(value, axis, len(total))
        if classes is None:
            self._give(call, axes, value, axis, total)
            return
        mask = fold(total, classes)
        if mask is not None and size < len(total):
            # Not expanded: a key/value head goes when all the queries it serves go.
            whole = whole_classes(total, classes)
            mask = torch.zeros(size, dtype=torch.bool)
            mask[classes[whole]] = True
        known = self.removed.get(value, {}).get(axis)
        if mask is None or (known is not None and (known & ~mask).any()):
            heads = len(classes.unique())
            raise refuse(
                call,
                f"shares each of {heads} key/value heads among {len(total) // heads} query heads; "
                f"removing heads {list(entries(total))} would leave groups of different size. "
                f"Remove whole groups, or the same number from every group.",
            )
        if mask.any():
            self._give(call, axes, value, axis, mask)

    def _give(self, call: fx.Node, axes: CallAxes, value: fx.Node, axis: int, mask: Tensor) -> None:
        """Cut a value, or let this call select from it where others need it whole."""
        known = self.removed.get(value, {}).get(axis)
        if known is not None and torch.equal(known | mask, known):
            return
        chosen = self.selections.get((call, value))
        if chosen is not None and chosen.kept == entries(~mask):
            return
        aside = value in axes.side and value.op == "call_function" and value not in self.active
        if aside and not self.passive and not self._private(call, value, axis, mask):
            self.selections[call, value] = Selection(
                consumer=call.name, operand=value.name, axis=axis, kept=entries(~mask)
            )
            return
        self.cut(value, axis, mask)

    def _private(self, call: fx.Node, value: fx.Node, axis: int, mask: Tensor) -> bool:
        """Whether cutting an operand reaches nothing but what is computed for this call."""
        trial = Search(twins=self.twins, active=self.active, passive=True, barred=call)
        try:
            trial.cut(value, axis, mask)
            trial.run()
        except SurgeryRefused:
            return False
        return True


def _serving(value: fx.Node, axis: int, size: int) -> Tensor | None:
    """Which of a value's entries serves each of `size` partners, when one serves several."""
    own = shape(value)[axis]
    if own == 1:
        return None
    if own < size:
        return torch.arange(size) // (size // own)
    return copy_classes(value, axis)


def factors(
    call: fx.Node, mask: Tensor, label: tuple[tuple[str | None, int], ...]
) -> dict[str, Tensor]:
    """What goes along each of the axes that one axis is merged from.

    Raises:
        SurgeryRefused: When what goes is no whole rows, or of an axis without a name.
    """
    kept = (~mask).reshape([size for _, size in label])
    sides = [kept.movedim(i, 0).flatten(1).any(1) for i in range(kept.ndim)]
    whole = torch.ones(1, dtype=torch.bool)
    for side in sides:
        whole = (whole[:, None] & side[None, :]).reshape(-1)
    if not torch.equal(whole, ~mask):
        sizes = " x ".join(str(size) for _, size in label)
        raise refuse(
            call, f"sees {prod(kept.shape)} entries as {sizes}; the removed ones are no whole rows."
        )
    found = {}
    for (name, _), side in zip(label, sides, strict=True):
        if bool(side.all()):
            continue
        if name is None:
            raise refuse(call, "computes statistics over groups of channels; remove whole groups.")
        found[name] = ~side
    return found


def _product(known: Mapping[str, Tensor], label: Label) -> Tensor:
    """What goes along a merged axis, given what goes along the axes it is merged from."""
    assert isinstance(label, tuple)
    kept = torch.ones(1, dtype=torch.bool)
    for name, size in label:
        side = torch.ones(size, dtype=torch.bool)
        if name is not None and name in known:
            side = ~known[name]
        kept = (kept[:, None] & side[None, :]).reshape(-1)
    return ~kept
