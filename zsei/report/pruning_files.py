"""The files of a prune: the smaller model, the record and its page, and the modification log."""

from pathlib import Path

from zsei.pruning.prune import Pruned
from zsei.report import pruning_html
from zsei.surgery.history import LOG
from zsei.surgery.modification_log import ModificationLog
from zsei.surgery.save import save


def save_pruned(
    pruned: Pruned, folder: Path | str | None = None, log: Path | str | None = None
) -> dict[str, Path]:
    """Write what came of a prune: the smaller model, `prune.json` and `prune.html` into a folder.

    Args:
        pruned: From `zsei.prune`.
        folder: A folder that does not exist yet or is empty. Where the gate accepted nothing, the
            record and its page are all there is to write.
        log: Folder of a modification log: its step 0 is the original, and the accepted cut is
            added. One of the same model goes on; None keeps no log.

    Raises:
        OutputError: It cannot be written; what was there is as it was.
    """
    written: dict[str, Path] = {}
    if folder is not None:
        folder = Path(folder)
        if pruned.edited is not None:
            save(pruned.edited, folder)
            written["model"] = folder
        folder.mkdir(parents=True, exist_ok=True)
        written["record"] = folder / "prune.json"
        written["record"].write_text(pruned.record.model_dump_json(indent=1), encoding="utf-8")
        written["report"] = pruning_html.write(pruned.record, folder / "prune.html")
    if log is not None and pruned.edited is not None:
        known = (Path(log) / LOG).is_file()
        history = ModificationLog.open(log) if known else ModificationLog.start(log, pruned.subject)
        note = f"pruned to {pruned.record.budget.text()} ({pruned.record.id})"
        accepted = pruned.record.tried.index(pruned.record.accepted or 0)
        history.append(pruned.edited, note=note, verdict=pruned.record.verdicts[accepted])
        written["log"] = Path(log)
    return written
