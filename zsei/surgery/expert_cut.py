"""Whole experts of a mixture: what of the routing may be cut though it looks along all experts.

An expert whose router logit is minus infinity is never among the k chosen, and a softmax over the
other logits alone gives them the same weights. So the logit can go, softmax and `topk` notwith-
standing; the numbers of the experts behind it move up, and with them the counts per expert.
"""

from collections.abc import Mapping

from torch import fx

from zsei.errors import SurgeryRefused
from zsei.subject.experts import Routing, find_routing
from zsei.subject.reading import EXPERTS, operation, shape
from zsei.surgery.calls import refuse, results
from zsei.surgery.labels import CallAxes, named


def routing_at(nodes: Mapping[str, fx.Node], name: str) -> Routing:
    """The routing whose router writes the value of this name.

    Raises:
        SurgeryRefused: When no grouped product is routed by it in a way that can be followed.
    """
    for node in nodes.values():
        routing = find_routing(node) if operation(node) in EXPERTS else None
        if routing is not None and routing.logits.name == name:
            return routing
    raise SurgeryRefused(
        f"Experts can go where `topk` chooses them by the logits of one linear and grouped "
        f"products compute them; `{name}` is no such linear. Remove neurons instead."
    )


def check_enough(routing: Routing, removed: int) -> None:
    """Refuse to leave fewer experts than every token is sent to.

    Raises:
        SurgeryRefused: Naming the `topk` call.
    """
    left = routing.experts - removed
    if left < routing.least:
        raise refuse(
            routing.chosen,
            f"sends every token to {routing.least} experts; removing {removed} of "
            f"{routing.experts} would leave {left}. Keep at least {routing.least}.",
        )


def passes(routing: Routing) -> dict[fx.Node, CallAxes]:
    """How the calls that work along the experts are passed by a cut of whole experts."""
    found: dict[fx.Node, CallAxes] = {}
    for node in routing.along:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        lead = named(len(shape(source)) - 1, "n")
        last = "k" if node is routing.chosen else "e"
        values = [(source, (*lead, "e"))]
        values += [(out, (*lead, last)) for out in results(node).values()]
        found[node] = CallAxes(values=tuple(values))
    counted = routing.counts.args[0]
    assert isinstance(counted, fx.Node)
    found[routing.counts] = CallAxes(values=((counted, ("rows",)), (routing.counts, ("e",))))
    counts = routing.running.args[0]
    assert isinstance(counts, fx.Node)
    found[routing.running] = CallAxes(values=((counts, ("e",)), (routing.running, ("e",))))
    return found
