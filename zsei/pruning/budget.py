"""A budget and what may go, from what a user wrote: every slip gets its sentence."""

from collections.abc import Iterable, Sequence

from zsei.errors import UsageError
from zsei.pruning.records import ALL_KINDS, Budget, PruneKind

SIZES = {"parameters": "--params", "flops": "--flops", "latency": "--latency"}


def budget_of(
    *,
    parameters: float | None = None,
    flops: float | None = None,
    latency: float | None = None,
    max_drop: float | None = None,
) -> Budget:
    """A budget from shares.

    Raises:
        UsageError: None is given, more than one size is, or a share is no share.
    """
    sizes = {"parameters": parameters, "flops": flops, "latency": latency}
    given = {SIZES[name]: share for name, share in sizes.items() if share is not None}
    for name, share in (given | ({} if max_drop is None else {"--max-drop": max_drop})).items():
        if not 0 < share < 1:
            what = "largest loss that is allowed" if name == "--max-drop" else "share that may stay"
            near = f"; for {share:g} % write {share / 100:g}" if 1 < share < 100 else ""
            raise UsageError(f"{name} is the {what}, between 0 and 1; got {share:g}{near}.")
    if len(given) > 1:
        raise UsageError(
            f"A budget has one size, and {' and '.join(given)} are two; give the one that counts, "
            f"and bound the loss with --max-drop."
        )
    if not given and max_drop is None:
        raise UsageError(
            f"A budget needs a size ({', '.join(SIZES.values())}) or --max-drop, as in `zsei prune "
            f"MODEL --params 0.8`; got neither."
        )
    return Budget(parameters=parameters, flops=flops, latency=latency, max_drop=max_drop)


def kinds_of(words: str | Iterable[str]) -> tuple[PruneKind, ...]:
    """What may go, in the order of `ALL_KINDS`, from words with commas between them.

    Raises:
        UsageError: None is named, or one that there is not.
    """
    named = words.split(",") if isinstance(words, str) else list(words)
    named = [word.strip() for word in named if word.strip()]
    check_kinds(named)
    return tuple(kind for kind in ALL_KINDS if kind in named)


def check_kinds(named: Sequence[str]) -> None:
    """Refuse to prune nothing, or what there is not.

    Raises:
        UsageError: None is named, or one that there is not.
    """
    wrong = [word for word in named if word not in ALL_KINDS]
    if wrong or not named:
        raise UsageError(
            f"What may go is one or more of {', '.join(ALL_KINDS)}, with commas between them; got "
            f"{', '.join(map(repr, wrong)) or 'none'}."
        )
