"""What each part costs besides operations: traffic, intensity, attention's memory, parallel work.

All of it is read off shapes, so it is exact and the same on every run.
"""

from zsei.graph.attention_memory import attention_memory
from zsei.graph.span import span
from zsei.graph.traffic import bytes_moved, owners
from zsei.records import Measurement
from zsei.subject.types import Subject


def cost_measurements(subject: Subject) -> dict[str, tuple[Measurement, ...]]:
    """Component id -> its measurements; those of the whole program stand at "output".

    bytes_moved and arithmetic_intensity per part; parallelism (work over span) and sequential_steps
    inside the part; per attention the bytes of its scores at 1, 2 and 4 times the length and, where
    it is causal, of the keys and values kept for the next token.
    """
    found: dict[str, list[Measurement]] = {}
    samples = subject.calibration[0].size
    moved = bytes_moved(subject)
    for component in subject.anatomy.components:
        touched = moved.get(component.id)
        if touched and component.kind != "output":
            rows = found.setdefault(component.id, [])
            rows.append(Measurement(name="bytes_moved", value=touched, unit="bytes per batch"))
            if component.flops:
                value = component.flops * samples / touched
                rows.append(
                    Measurement(name="arithmetic_intensity", value=value,
                                unit="operations per byte")
                )  # fmt: skip
    if subject.program is None:
        return {component: tuple(rows) for component, rows in found.items()}
    inside: dict[str, list[str]] = {}
    for node, component in owners(subject).items():
        inside.setdefault(component, []).append(node)
    for component, nodes in inside.items():
        if component in found:
            found[component] += _parallel(subject, nodes)
    found.setdefault("output", []).extend(_parallel(subject, None))
    cached = 0
    for attention in attention_memory(subject):
        rows = found.setdefault(attention.component, [])
        rows += [
            Measurement(name="attention_score_bytes", value=attention.scores(factor),
                        unit="bytes per sample", note=f"at {factor} x the length; "
                        f"{attention.written_out} values of this size are held")
            for factor in ((1, 2, 4) if attention.grows else (1,))
        ]  # fmt: skip
        if attention.cache_bytes:
            rows.append(_cache(attention.cache_bytes, attention.keys))
            cached += attention.cache_bytes
    if cached:
        longest = max(a.keys for a in attention_memory(subject) if a.cache_bytes)
        found["output"].append(_cache(cached, longest))
    return {component: tuple(rows) for component, rows in found.items()}


def _cache(size: int, length: int) -> Measurement:
    note = f"{size // length} bytes a token, at {length} tokens"
    return Measurement(name="kv_cache_bytes", value=size, unit="bytes per sample", note=note)


def _parallel(subject: Subject, nodes: list[str] | None) -> list[Measurement]:
    assert subject.program is not None
    seen = span(subject.program, nodes)
    if not seen.work:
        return []
    return [
        Measurement(name="parallelism", value=seen.parallelism, unit="ratio",
                    note=f"{seen.calls} calls, work over span"),
        Measurement(name="sequential_steps", value=seen.steps, unit="count"),
    ]  # fmt: skip
