"""`zsei apply`: make a smaller model out of what the gate accepted, and save it."""

from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, RemoteCode, Run, settings


def apply(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the edited model.")],
    strategies: Annotated[
        str, typer.Option(metavar="accepted|ID,ID", help="Which proposals of the run to carry out.")
    ] = "accepted",
    allow_remote_code: RemoteCode = False,
    as_json: Json = False,
) -> int:
    """Apply what the gate accepted in a run to a copy of its model, and save that."""
    from zsei.cli.folder import check_folder, written_whole
    from zsei.cli.output import console, results

    with results() as stdout:
        chosen = settings(allow_remote_code=allow_remote_code or None)
        check_folder(out)

        from zsei.memory.store import Memory

        record = Memory(chosen.home).get(run)
        wanted = tuple(word.strip() for word in strategies.split(",") if word.strip())
        if wanted == ("accepted",) and not record.accepted():
            return codes.of_record(record)

        from zsei import pipeline
        from zsei.subject.program import parameter_count

        which = "accepted" if wanted == ("accepted",) else wanted
        proposals = pipeline.chosen(record, which)
        edited = pipeline.edit(record, None, which, settings=chosen)
        with written_whole(out) as draft:
            pipeline.save_model(edited, draft)
        before = record.provenance.parameters
        after = parameter_count(edited.model)
        if as_json:
            import json

            body = {
                "run": record.id,
                "applied": [proposal.id for proposal in proposals],
                "out": str(out),
                "form": edited.form,
                "note": edited.note,
                "parameters": {"before": before, "after": after},
            }
            stdout.write(json.dumps(body) + "\n")
        else:
            console(stdout).print(
                f"Applied {len(proposals)} of {len(record.proposals)} proposals of {record.id}: "
                f"{before:,} parameters became {after:,}.\n"
                f"Saved in {out}; zsei.load({str(out)!r}) gives the model back.\n{edited.note}",
                markup=False,
                highlight=False,
            )
        return codes.DONE
