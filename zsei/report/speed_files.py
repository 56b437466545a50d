"""The files of a measurement of speed-ups: settings, record and page."""

from pathlib import Path

from zsei.report import speed_html
from zsei.speed.record import SpeedRecord
from zsei.speed.settings_file import FILE

RECORD = "speed-record.json"
PAGE = "speed.html"


def save_speed(record: SpeedRecord, folder: Path | str) -> dict[str, Path]:
    """Write `speed.json` (where something was accepted), `speed-record.json` and `speed.html`.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {"record": folder / RECORD}
    written["record"].write_text(record.model_dump_json(indent=1), encoding="utf-8")
    if record.settings is not None:
        written["settings"] = folder / FILE
        written["settings"].write_text(
            record.settings.model_dump_json(indent=1) + "\n", encoding="utf-8"
        )
    written["report"] = speed_html.write(record, folder / PAGE)
    return written
