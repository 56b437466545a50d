"""`zsei claims`: what a file claims of a model, each claim held against a measurement."""

from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.keep import kept
from zsei.cli.options import Json, settings


def claims(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML: model, workload, baseline and claims.")
    ],
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N, in place of the file's.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Torch threads of the baseline, as above.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Check this claim alone; may be given several times."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", help="Timed rounds of a claim at most. [60]")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Of all claims together.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for claims.json and claims.html.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Not decided and not measurable here end with 3 too; else they do not."
        ),
    ] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Check claims about a model: speed-ups, throughput, latency, memory, scaling, accuracy.

    Each is measured and held, not held, not decided (its interval straddles what is claimed) or
    not measurable here. A range such as 2 to 4 times claims its lower end. Ends with 3 when a claim
    does not hold; not decided and not measurable do not fail unless --strict.
    """
    from zsei.cli.folder import check_folder, written_whole
    from zsei.cli.output import console, progress, results

    with results() as stdout:
        if out is not None:
            check_folder(out)
        from zsei.claims.check import check_claims
        from zsei.report import claims_text
        from zsei.report.claims_files import save_claims
        from zsei.timing.decision import ROUNDS

        with progress(quiet=quiet) as advance:
            record = check_claims(
                file, device=device, threads=threads, only=only or (), budget=budget,
                rounds=ROUNDS if rounds is None else rounds, progress=advance,
            )  # fmt: skip
        if out is not None:
            with written_whole(out) as draft:
                save_claims(record, draft)
        kept(record, settings())
        if as_json:
            stdout.write(record.model_dump_json() + "\n")
        else:
            claims_text.summary(record, console(stdout))
            if out is not None:
                stdout.write(f"{out / 'claims.html'}\n")
        return codes.of_claims(record, strict=strict)
