"""The report: one self-contained HTML file made from one record, and from nothing else.

It loads nothing and runs one script of its own, which the page's content security policy names by
its hash; the same policy forbids every connection. Every text is cleaned, clipped and escaped. A
page over `MAX_BYTES` is drawn again with less detail, and says so.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zsei.errors import OutputError
from zsei.records import AnalysisRecord
from zsei.report import rounds, select, text, trust, verdicts
from zsei.report.bars import bar, bullet
from zsei.report.edges import edge_table
from zsei.report.flow_svg import Detail, flow_svg
from zsei.report.groups import group_tables
from zsei.report.heatmap import heat_map
from zsei.report.layers import layer_table
from zsei.report.maps import maps
from zsei.report.parts import component_table, head_table, kind_tables
from zsei.report.summary import answered, effect, spoken

MAX_BYTES = 1_980_000
PROSE = 1500
"""Characters of one text shown; an honest interpretation is shorter."""
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How much of a record the page shows."""

    most_parts: int
    """Nodes and components up to which it is worth trying."""
    flow: Detail
    groups: int
    """Kinds of findings shown."""
    findings: int
    """Findings shown of one kind."""
    proposals: int
    listed: int
    """Rows of each table of components."""
    kinds: int = 4
    """Rows of each table of all measurements of one kind."""
    maps: int = 8
    map_size: int = 16
    """Rows and columns shown of one map."""
    edges: int = 40
    cell_titles: bool = True
    note: str = ""
    """What was left out, said on the page."""


DEPTHS = (
    Depth(
        most_parts=3000, flow=Detail(), groups=80, findings=40, proposals=60, listed=1200,
        kinds=80, maps=32, map_size=32, edges=100,
    ),
    Depth(
        most_parts=6000, flow=Detail(), groups=60, findings=25, proposals=40, listed=100,
        note="most rows of the tables of components",
    ),
    Depth(
        most_parts=9000, flow=Detail(edge_titles=False), groups=50, findings=20, proposals=30,
        listed=400, note="numbers of single edges and some rows of the tables of components",
    ),
    Depth(
        most_parts=12_000, flow=Detail(edge_titles=False, node_titles=False), groups=40,
        findings=12, proposals=25, listed=200, kinds=12, maps=8, edges=30,
        note="numbers of single nodes and edges of the graph and most rows of the tables of "
        "components",
    ),
    Depth(
        most_parts=40_000,
        flow=Detail(heads=False, edge_titles=False, node_titles=False, max_nodes=4000), groups=30,
        findings=8, proposals=15, listed=100, kinds=6, maps=4, edges=20, cell_titles=False,
        note="the heads in the graph, numbers of single parts, and most rows of all tables",
    ),
    Depth(
        most_parts=10**9, flow=Detail(heads=False, max_nodes=0), groups=12, findings=4, proposals=8,
        listed=40, kinds=0, maps=0, edges=10, cell_titles=False,
        note="the graph, and most rows of all tables",
    ),
)  # fmt: skip
"""From everything to what fits even for a model of tens of thousands of parts."""


def write(record: AnalysisRecord, path: Path) -> Path:
    """Write the report of a record to `path`; whole or not at all.

    Raises:
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    return write_page(render(record), path)


def write_page(page: str, path: Path) -> Path:
    """Write a page to `path`; whole or not at all.

    Raises:
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=".report-", delete=False) as file:
            temporary = Path(file.name)
            file.write(page.encode())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"The report must be written to a folder that exists and has room, but writing {path} "
            f"failed ({error.strerror or error}); name another --out."
        ) from error
    return path


def render(record: AnalysisRecord) -> str:
    """The report as one HTML page under 2 MB."""
    parts = len(record.flow.nodes) + len(record.components)
    page = ""
    for depth in DEPTHS:
        if parts > depth.most_parts:
            continue
        page = _render(record, depth)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def _render(record: AnalysisRecord, depth: Depth) -> str:
    from zsei.report.profile_html import STYLES, section

    profile = section(record)
    names = ("report.css", *(STYLES if profile else ()))
    removed = verdicts.removed(record)
    critical = select.critical_paths(record)
    flow = flow_svg(
        record.flow, record.components, critical=critical, removed=removed, detail=depth.flow
    )
    anchors = {f.id: f"finding-{i}" for i, f in enumerate(select.everything_found(record))}
    return page("report.html.j2", names, {
        "record": record,
        "depth": depth,
        "answers": answered(record),
        "trust": spoken(record, "trust"),
        "flow": Markup(flow),
        "critical": critical,
        "heat": heat_map(record, removed, titles=depth.cell_titles),
        "layers": layer_table(record),
        "maps": maps(record, depth.maps, depth.map_size),
        "edges": edge_table(record, depth.edges),
        "group_tables": group_tables(record, depth.maps, depth.edges),
        "kinds": kind_tables(record, depth.kinds),
        "groups": select.by_code(record),
        "proposals": verdicts.in_order(record),
        "turns": rounds.turns(record),
        "objections_to": partial(rounds.objections_to, record),
        "counted": rounds.counted(record),
        "rankings": trust.rankings(record),
        "slowest": select.slowest(record),
        "profile": profile,
        "parts": component_table(record, depth.listed),
        "heads": head_table(record, depth.listed),
        "anchors": anchors,
        "anchor_of_proposal": {p.id: f"proposal-{i}" for i, p in enumerate(record.proposals)},
    }, script="report.js")  # fmt: skip


def page(
    template: str, styles: Sequence[str], values: Mapping[str, object], *, script: str = ""
) -> str:
    """A page made of a template, with its styles and its script inside and nothing else allowed."""
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in styles)
    code = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    return (
        environment()
        .get_template(template)
        .render(
            {"style": Markup(style), "script": Markup(code), "policy": policy(style, code)}
            | dict(values)
        )
    )


def policy(style: str, script: str) -> str:
    """Nothing may be loaded or sent; only the page's own style and script are obeyed."""
    return (
        f"default-src 'none'; style-src '{_source_hash(style)}'; "
        f"script-src '{_source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _source_hash(source: str) -> str:
    return f"sha256-{b64encode(sha256(source.encode()).digest()).decode()}"


@cache
def environment() -> Environment:
    """Templates with escaping always on and every string cleaned on its way out."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_cleaned,
    )  # fmt: skip
    made.filters.update(
        number=text.number, count=text.count, size=text.size, seconds=text.seconds,
        percent=text.percent, short=text.short, line=text.one_line, measured=text.measured,
        spread=text.spread, plural=text.plural, correlation=text.correlation,
        describe=text.describe, date=_date, params=text.settings,
        prose=partial(text.clean, limit=PROSE),
    )  # fmt: skip
    made.tests["yardstick"] = trust.is_yardstick
    made.globals.update(
        changes=verdicts.changes, limits=verdicts.limits, bar=bar, bullet=bullet, effect=effect,
        aligned=text.aligned, band=_band, verdict_of=verdicts.verdict_of, said=verdicts.said,
        scope=verdicts.scope, opening=select.opening,
    )  # fmt: skip
    return made


def _cleaned(value: object) -> object:
    """Markup made here passes; every other string is cleaned, and then escaped by jinja."""
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _date(created: str) -> str:
    """`2026-03-14 09:26 UTC`; as it stands when it is no date."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text.one_line(created, 60) or "no date"


def _band(share: float) -> str:
    """What a share of the time calls for."""
    if share > 0.2:
        return "now"
    if share > 0.1:
        return "next"
    return "later" if share > 0.05 else "not worth it"
