"""Where the input of each MLP comes from: its own attention, earlier blocks, the embedding."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from zsei.records import Matrix, Measurement
from zsei.trace.edge_rows import Parts, carried_parts
from zsei.trace.view import Measured, View

OWN, EARLIER, EMBEDDING, CONSTANT = "own attention", "earlier blocks", "embedding", "biases"
KINDS = (OWN, EARLIER, EMBEDDING, CONSTANT)


@final
@dataclass(frozen=True, kw_only=True)
class AttentionToMlp:
    """How much of what an MLP reads was written by its own attention.

    Measures: for each MLP (or block of experts) the shares of its input x that come from the
    attention of its own block, from all that earlier blocks wrote, from the embedding (positions
    included), and from biases.

    Formula: x = Σ_u p_u, p_u the part of writer u behind the norms in between, whose statistics
    stay those of the clean run. share_u = mean over positions of <x, p_u> / ‖x‖². Shares of all
    writers sum to 1; one is negative where a writer points against what arrives.

    Reading it: a high share of its own attention says that the two work as a pair, so that cutting
    heads there changes what the MLP works on. Near 0 the MLP works on what earlier blocks left, and
    the block is an attention and an MLP side by side.

    Misleads when: large parts cancel (shares far above 1 beside negative ones), or taken for
    importance: a share is how much of the input's length lies along a writer's part, not what the
    MLP makes of it (see edge attribution).

    References: Elhage et al., "A mathematical framework for transformer circuits", 2021; Kobayashi,
    Kuribayashi, Yokoi and Inui, "Incorporating residual and normalization layers into analysis of
    masked language models", EMNLP 2021.
    """

    name: ClassVar[str] = "attention-to-mlp"

    def measure(self, view: View) -> Measured:
        """Four shares per MLP, and the map of them."""
        plan, whole = view.taps.edges, view.whole
        by_id = {c.id: c for c in view.subject.anatomy.components}
        mlps: dict[str, list[str]] = {}
        for reader in plan.readers:
            component = by_id.get(reader.names[0][0])
            if component is not None and component.kind in ("mlp", "experts"):
                mlps.setdefault(reader.place, []).append(component.id)
        if not mlps or not whole.samples:
            return Measured()
        layers = {c.id: c.layer for c in by_id.values()}
        kinds = {c.id: c.kind for c in by_id.values()}
        found: dict[str, Mapping[str, Tensor]] = {}
        counts: dict[str, int] = {}
        for parts in carried_parts(plan.stream, whole, set(mlps)):
            for mlp in mlps[parts.place]:
                found[mlp] = _by_kind(parts, layers[mlp], layers, kinds)
                counts[mlp] = len(parts.value)
        order = [c for c in by_id if c in found]
        measurements = {
            mlp: tuple(_measurements(found[mlp], counts[mlp], whole.samples)) for mlp in order
        }
        matrix = Matrix(
            name="attention_to_mlp",
            title="Where the input of each MLP comes from",
            rows=tuple(order),
            columns=KINDS,
            values=tuple(tuple(float(found[m][kind]) for kind in KINDS) for m in order),
            unit="projection share",
            n=whole.samples,
            note="rows sum to 1",
        )
        return Measured(measurements=measurements, matrices=(matrix,))


def _by_kind(
    parts: Parts, layer: int | None, layers: Mapping[str, int | None], kinds: Mapping[str, str]
) -> Mapping[str, Tensor]:
    """Projection shares added up by where the writers stand."""
    share = parts.projection()
    found = {kind: share.new_zeros(()) for kind in KINDS}
    for name, own in zip(parts.names, share, strict=True):
        component = name.removesuffix(":bias")
        at = layers.get(component)
        if name != component:
            found[CONSTANT] = found[CONSTANT] + own
        elif at is None:
            found[EMBEDDING] = found[EMBEDDING] + own
        elif at == layer and kinds.get(component) in ("head", "attention"):
            found[OWN] = found[OWN] + own
        else:
            found[EARLIER] = found[EARLIER] + own
    return found


def _measurements(shares: Mapping[str, Tensor], rows: int, n: int) -> Iterator[Measurement]:
    names = {
        OWN: "mlp_from_attention", EARLIER: "mlp_from_earlier", EMBEDDING: "mlp_from_embedding",
        CONSTANT: "mlp_from_biases",
    }  # fmt: skip
    for kind, name in names.items():
        yield Measurement(
            name=name, value=float(shares[kind]), unit="share", n=n, note=f"from {rows} rows"
        )
