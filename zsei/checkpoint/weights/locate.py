"""Which file a request is about."""

from pathlib import Path

from zsei.checkpoint.contracts import StructuralAnalysisRequest
from zsei.checkpoint.tasks import Snapshot
from zsei.errors import UsageError


def snapshot_of(root: Path, request: StructuralAnalysisRequest, *, prefix: str = "") -> Snapshot:
    """The weights a request names; the cuts that led to them are for the analyst to add.

    Args:
        root: Folder the weights are named in.
        request: What names them.
        prefix: As in `Snapshot.prefix`.

    Raises:
        UsageError: The weights lie outside of that folder.
    """
    return Snapshot(
        epoch=request.checkpoint.epoch,
        step=request.checkpoint.step,
        path=inside(root, request.checkpoint.weights),
        sha256=request.checkpoint.sha256,
        prefix=prefix,
    )


def inside(root: Path, name: str) -> Path:
    """The path of `name` in a folder.

    Raises:
        UsageError: It leads out of the folder, or is no path at all.
    """
    try:
        path = (root / name).resolve()
        fits = path.is_relative_to(root.resolve()) and path != root.resolve()
    except (OSError, ValueError):  # a loop of links, a zero byte
        fits, path = False, root
    if not fits:
        raise UsageError(
            f"A request names weights inside of the folder it was sent to; {name!r} is not. Give "
            "a path relative to that folder."
        )
    return path
