"""The shelf of strategies: executable edits of a model, one per file."""

from zsei.errors import UsageError
from zsei.strategies.factorise_linear import FactoriseLinear
from zsei.strategies.merge_neurons import MergeNeurons
from zsei.strategies.prune_heads import PruneHeads
from zsei.strategies.prune_units import PruneChannels, PruneNeurons
from zsei.strategies.remove_layer import RemoveLayer
from zsei.strategies.replace_layer import ReplaceLayer
from zsei.strategies.strategy import Strategy

STRATEGIES: tuple[Strategy, ...] = (
    PruneHeads(), PruneNeurons(), PruneChannels(), MergeNeurons(), FactoriseLinear(), RemoveLayer(),
    ReplaceLayer(),
)  # fmt: skip


def find_strategy(name: str) -> Strategy:
    """The strategy of this name.

    Raises:
        UsageError: There is none; the message lists those there are.
    """
    for strategy in STRATEGIES:
        if strategy.name == name:
            return strategy
    known = ", ".join(strategy.name for strategy in STRATEGIES)
    raise UsageError(f"A strategy must be one of {known}; {name!r} is none of them.")
