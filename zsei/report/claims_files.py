"""The files of a check of claims: the record and its page."""

from pathlib import Path

from zsei.claims.record import ClaimsRecord
from zsei.report import claims_html


def save_claims(record: ClaimsRecord, folder: Path | str) -> dict[str, Path]:
    """Write `claims.json` and `claims.html` into a folder, which is made where there is none.

    Raises:
        OutputError: They cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "claims.json"
    path.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return {"record": path, "report": claims_html.write(record, folder / "claims.html")}
