"""The layer by head heat map."""

from xml.etree import ElementTree

import pytest
import report_records as records

from zsei.report.heatmap import head_masses, heat_map
from zsei.report.scale import LEVELS, OPACITY, bounds, level
from zsei.report.verdicts import removed


def _cells(html: str) -> dict[str, ElementTree.Element]:
    # An XML attribute would turn its line breaks into spaces; HTML keeps them.
    table = ElementTree.fromstring(html.replace("\n", "&#10;"))
    return {td.get("title", "").split("\n")[0]: td for td in table.iter("td") if td.get("title")}


def test_every_head_has_a_cell_with_its_id_value_and_kind():
    record = records.encoder()
    heat = heat_map(record, removed(record))
    assert heat is not None
    assert (heat.name, heat.unit, heat.heads, heat.removed) == ("ablation_effect", "1 - cos", 72, 5)
    cells = _cells(heat.html)
    assert set(cells) == {c.id for c in record.components if c.kind == "head"}
    for name, cell in cells.items():
        measurement = record.measured(name, "ablation_effect")
        shown = float(cell.text) * 10**heat.exponent
        assert shown == pytest.approx(measurement.value, abs=0.051 * 10**heat.exponent)
        assert "mass on " in cell.get("title")
        assert f"n = {measurement.n}" in cell.get("title")
        assert ("gone" in cell.get("class")) == (name in removed(record))


def test_rows_are_layers_and_columns_are_heads():
    table = ElementTree.fromstring(heat_map(records.encoder(3, 8)).html)
    assert [th.text for th in table.findall(".//tbody//th")] == ["0", "1", "2"]
    assert [th.get("scope") for th in table.findall(".//tbody//th")] == ["row"] * 3
    assert [th.text for th in table.findall(".//thead//th")] == ["layer", *map(str, range(8))]


def test_self_and_cross_attention_have_a_row_each():
    table = ElementTree.fromstring(heat_map(records.encoder_decoder()).html)
    assert len(table.findall(".//tbody/tr")) == 6


def test_colour_follows_the_value():
    record = records.encoder()
    cells = _cells(heat_map(record).html)
    values = {name: record.measured(name, "ablation_effect").value for name in cells}
    ordered = sorted(values, key=values.get)
    levels = [int(cells[name].get("class")[1]) for name in ordered]
    assert levels == sorted(levels)
    assert levels[-1] == LEVELS - 1


def test_harmful_and_unknown_heads_look_different():
    record = records.encoder(2, 4)
    first, second = "encoder.layer.0/head.0", "encoder.layer.0/head.1"
    changed = dict(record.measurements)
    changed[first] = (records.measured("ablation_effect", -0.01, "1 - cos"),)
    changed[second] = (records.measured("ablation_effect", None, "1 - cos"),)
    heat = heat_map(record.model_copy(update={"measurements": changed}))
    cells = _cells(heat.html)
    assert cells[first].get("class").startswith("m")
    assert (cells[second].get("class"), cells[second].text) == ("none", "?")
    assert (heat.negative, heat.missing) == (1, 1)


def test_a_model_without_heads_has_no_map():
    assert heat_map(records.cnn()) is None


def test_heads_nobody_measured_are_question_marks():
    record = records.encoder(1, 4)
    heat = heat_map(record.model_copy(update={"measurements": {}}))
    assert heat.missing == 4
    assert [cell.text for cell in _cells(heat.html).values()] == ["?"] * 4


def test_where_a_head_looks_comes_largest_first():
    record = records.encoder(1, 4)
    masses = head_masses(record, "encoder.layer.0/head.0")
    assert list(masses.values()) == sorted(masses.values(), reverse=True)
    assert set(masses) == {"first token", "previous token", "diagonal"}


def test_levels_begin_at_their_bounds():
    limits = bounds(0.7)
    assert len(limits) == LEVELS == len(OPACITY)
    for step in range(1, LEVELS):
        assert level(limits[step] * 1.001, 0.7) == step
        assert level(limits[step] * 0.999, 0.7) == step - 1
    assert level(5.0, 0.0) == level(0.0, 1.0) == 0
    assert level(-0.7, 0.7) == LEVELS - 1
