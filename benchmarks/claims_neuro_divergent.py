"""The claims of the neuro-divergent summary, measured on PatchTST and the real ETTh1.

    python -m benchmarks.claims_neuro_divergent [--device cuda] [--rounds 60] [--out DIR]

Prints a line for each claim: claimed, measured with its 99 % interval, verdict, seconds. The data
are found through `ZSEI_EVAL_DATA` (default ../shared/data); where they are missing this says so and
ends, unless `--generated` asks for the generated series. Run it on a machine that does nothing
else.
"""

import argparse
import os
import tempfile
from pathlib import Path

from zsei.claims.check import check_claims
from zsei.report.claims_files import save_claims
from zsei.report.claims_text import counted, measured, worded

FILE = Path(__file__).parent.parent / "examples" / "claims" / "neuro-divergent.yaml"
SERIES = "etth1/ETTh1.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--generated", action="store_true", help="generated series, not ETTh1")
    given = parser.parse_args()

    data = Path(os.environ.get("ZSEI_EVAL_DATA", "../shared/data")).absolute()
    if not given.generated and not (data / SERIES).is_file():
        print(f"skipped: there is no {SERIES} in {data}; set ZSEI_EVAL_DATA or give --generated")
        return
    os.environ["ZSEI_EVAL_DATA"] = str(data)
    with tempfile.TemporaryDirectory() as folder:
        path = FILE if given.generated else _on_etth1(Path(folder))
        record = check_claims(
            path, device=given.device, threads=given.threads, rounds=given.rounds, only=given.only,
            progress=lambda _, done, __, note: print(f"# {done:4.0%} {note}", flush=True),
        )  # fmt: skip
    machine = record.machine
    print(f"{machine.name}, {machine.cores} cores, {machine.threads} threads, {machine.device}")
    print(f"{record.model}: {record.parameters:,} parameters, batches of {record.batch_size}")
    for outcome in record.outcomes:
        print(
            f"{outcome.id:34} {outcome.claimed:22} {measured(outcome):34} {worded(outcome):28}"
            f" {outcome.seconds:6.1f} s"
        )
        print(f"    {outcome.reason}")
    print(f"{counted(record)}; {record.seconds:.0f} s")
    if given.out is not None:
        for path in save_claims(record, given.out).values():
            print(path)


def _on_etth1(folder: Path) -> Path:
    """The file of claims about the real series, beside the script that it names."""
    for name in ("forecasting.py", FILE.name):
        text = (FILE.parent / name).read_text(encoding="utf-8")
        text = text.replace("model: forecasting:patchtst\n", "model: forecasting:patchtst_etth1\n")
        (folder / name).write_text(text, encoding="utf-8")
    return folder / FILE.name


if __name__ == "__main__":
    main()
