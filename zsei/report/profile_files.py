"""The files of a profile: the record, the trace and the page."""

from pathlib import Path

from zsei.profiling.chrome import chrome_json
from zsei.profiling.record import ProfileRecord
from zsei.report import profile_html


def save_profile(record: ProfileRecord, folder: Path | str) -> dict[str, Path]:
    """Write `profile.json`, `trace.json` (chrome://tracing, Perfetto) and `profile.html`.

    Args:
        record: From `zsei.profile`.
        folder: A folder; it is made where it is missing.

    Returns:
        What was written, by the words `record`, `trace` and `report`.

    Raises:
        OutputError: The page cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record_file, trace = folder / "profile.json", folder / "trace.json"
    record_file.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    trace.write_text(chrome_json(record), encoding="utf-8")
    page = profile_html.write(record, folder / "profile.html")
    return {"record": record_file, "trace": trace, "report": page}
