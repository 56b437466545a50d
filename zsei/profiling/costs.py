"""What every call of a program does, from shapes alone; and which component owns it."""

from dataclasses import dataclass

from zsei.graph.traffic import call_bytes, owners, views
from zsei.profiling.record import OUTSIDE
from zsei.subject.cost import flops, value_bytes
from zsei.subject.reading import operation
from zsei.subject.types import Subject


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One call, or one module where there is no program."""

    name: str
    operation: str
    component: str
    flops: int | None
    moved: int | None
    written: int | None


def program_costs(subject: Subject) -> tuple[Cost, ...]:
    """Costs of the calls of a subject's program, in program order."""
    assert subject.program is not None
    owner = owners(subject)
    return tuple(
        Cost(
            name=node.name,
            operation=operation(node),
            component=owner.get(node.name, OUTSIDE),
            flops=flops(node),
            moved=call_bytes(node),
            written=0 if views(node) is not None else value_bytes(node),
        )
        for node in subject.program.graph_module.graph.nodes
        if node.op == "call_function"
    )


def module_costs(subject: Subject, names: tuple[str, ...]) -> tuple[Cost, ...]:
    """Costs of timed modules: operations and bytes stand with the first run of a component.

    Args:
        subject: Without a program.
        names: As `ModuleInstrument.names`.
    """
    modules = dict(subject.model.named_modules())
    components = {c.path: c for c in reversed(subject.anatomy.components) if c.kind != "layer"}
    samples = subject.calibration[0].size
    found = []
    for name in names:
        path, again, _ = name.partition("#")
        component = None if again else components.get(path)
        flop = None if component is None else component.flops * samples
        wrote = None if component is None else component.bytes * samples
        read = None if component is None else 4 * component.parameters
        found.append(
            Cost(
                name=name,
                operation=type(modules[path]).__name__ if path in modules else "",
                component=components[path].id if path in components else OUTSIDE,
                flops=flop,
                moved=None if wrote is None or read is None else read + 2 * wrote,
                written=wrote,
            )
        )
    return tuple(found)
