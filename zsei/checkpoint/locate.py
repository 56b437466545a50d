"""Which file a request is about, and which cuts lie between the model and it."""

from pathlib import Path

from zsei.checkpoint.contracts import StructuralAnalysisRequest, StructuralPruningDecision
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.errors import UsageError
from zsei.surgery.module_edit import ModuleEdit


def snapshot_of(
    folder: RunFolder,
    request: StructuralAnalysisRequest,
    *,
    root: Path | None = None,
    prefix: str = "",
) -> Snapshot:
    """The weights a request names, with the cuts that were carried out before them.

    Args:
        folder: The run; its decisions hold the cuts.
        request: What names the weights, and the decisions that stand.
        root: Folder the weights are named in; None is the run's own.
        prefix: As in `Snapshot.prefix`.

    Raises:
        UsageError: The weights lie outside of that folder, or a decision that was carried out is
            none of this run.
    """
    edits, masks = _cuts(folder, request)
    return Snapshot(
        epoch=request.checkpoint.epoch,
        step=request.checkpoint.step,
        path=inside(root or folder.path, request.checkpoint.weights),
        sha256=request.checkpoint.sha256,
        prefix=prefix,
        edits=edits,
        masks=masks,
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


def _cuts(
    folder: RunFolder, request: StructuralAnalysisRequest
) -> tuple[tuple[ModuleEdit, ...], tuple[ModuleEdit, ...]]:
    wanted = request.architecture.applied
    if not wanted:
        return (), ()
    known: dict[str, StructuralPruningDecision] = {}
    for epoch in folder.epochs("decisions"):
        decision = folder.read("decisions", epoch, StructuralPruningDecision)
        if decision is not None and decision.decision_id in wanted:
            known[decision.decision_id] = decision
    edits: list[ModuleEdit] = []
    masks: list[ModuleEdit] = []
    for name in wanted:
        edit = known[name].edit if name in known else None
        if edit is None:
            raise UsageError(
                f"A checkpoint is described by the cuts before it; the decision {name} that was "
                f"carried out on `{request.checkpoint.run}` is not in {folder.path}, or has no "
                "cut. Send requests to the folder that the decisions came from."
            )
        (masks if name in request.architecture.masked else edits).append(edit)
    return tuple(edits), tuple(masks)
