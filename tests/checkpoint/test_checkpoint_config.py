"""The configuration: the design's own file, and everything that may be wrong in one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from zsei.checkpoint.config import CheckpointConfig, EleshConfig
from zsei.checkpoint.read_config import read_config
from zsei.errors import UsageError

DESIGN = Path(__file__).parents[2] / "examples" / "elesh.yaml"


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= leaves(value, f"{path}.{name}".lstrip("."))
    return found


def test_the_designs_file_is_what_we_have_by_default() -> None:
    """Every name of it and no other, and every value."""
    told = leaves(yaml.safe_load(DESIGN.read_text()))
    told["elesh.analysis_cache_size"] = 1024**3  # "1GB"
    told["elesh.marking_threshold"] = 1e-8  # which YAML 1.1 reads as text
    assert told == leaves({"elesh": EleshConfig().model_dump()})
    assert read_config(DESIGN) == CheckpointConfig()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    assert read_config(write(tmp_path / "a.yaml", "")) == CheckpointConfig()
    assert read_config(write(tmp_path / "b.yml", "elesh:\nrun:\n")) == CheckpointConfig()
    assert read_config(write(tmp_path / "c.toml", "")) == CheckpointConfig()


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    one = read_config(
        write(
            tmp_path / "a.yaml",
            "elesh:\n  analysis_cache_size: 512 MB\n  structured_pruning:\n"
            "    safety_schedule: {validation_epochs: 3}\nrun:\n  mode: mask\n",
        )
    )
    other = read_config(
        write(
            tmp_path / "b.toml",
            'run.mode = "mask"\n[elesh]\nanalysis_cache_size = "512MB"\n'
            "[elesh.structured_pruning.safety_schedule]\nvalidation_epochs = 3\n",
        )
    )
    assert one == other
    assert one.run.mode == "mask"
    assert one.elesh.analysis_cache_size == 512 * 1024**2
    assert one.elesh.structured_pruning.safety_schedule.epochs.preparation == 3
    assert one.elesh.structured_pruning.safety_schedule.epochs.moderate == 30


WRONG = {
    "unknown key": ("elesh: {sketch_widht: 3}", ("'elesh.sketch_widht'", "'elesh.sketch_width'")),
    "deep": (
        "elesh: {structured_pruning: {channel_analysis: {taylor_wieght: 1}}}",
        ("'elesh.structured_pruning.channel_analysis.taylor_wieght'",
         "'elesh.structured_pruning.channel_analysis.taylor_weight'"),
    ),
    "at the wrong place": (
        "elesh: {min_heads_per_layer: 1}",
        ("'elesh.structured_pruning.attention_analysis.min_heads_per_layer'",),
    ),
    "outside of the sections": ("sketch_depth: 3", ("'sketch_depth'", "under `elesh`")),
    "unknown section": ("elehs: {}", ("'elehs'", "'elesh'")),
    "like nothing there is": ("run: {qqqq: 1}", ("'run.qqqq'", "mode, shape")),
    "a word for a number": ("elesh: {sketch_depth: deep}", ("'elesh.sketch_depth'", "'deep'")),
    "out of range": ("elesh: {confidence_threshold: 1.5}", ("confidence_threshold", "1.5")),
    "not finite": ("elesh: {analysis_timeout: .nan}", ("analysis_timeout", "nan")),
    "a size that is none": ("elesh: {analysis_cache_size: big}", ("1GB", "'big'")),
    "a mode that is none": ("run: {mode: destroy}", ("'observe', 'mask' or 'remove'", "'destroy'")),
    "a value for a section": ("elesh: {structured_pruning: 3}", ("a section", "3")),
    "no phase that cuts": (
        "elesh: {structured_pruning: {safety_schedule: {conservative_epochs: 0, "
        "moderate_epochs: 0, aggressive_epochs: 0}}}",
        ("safety_schedule", "at least one of them must cut"),
    ),
    "a list": ("- elesh", ("a list", "`elesh:`")),
    "text": ("elesh", ("text",)),
    "a key twice": ("elesh: {sketch_depth: 3, sketch_depth: 4}", ("'sketch_depth' stands twice",
                                                                 "line 1")),
    "a section twice": ("run: {mode: mask}\nrun: {mode: remove}", ("'run' stands twice", "line 2")),
    "no yaml": ("elesh: {", ("must be YAML", "line 1")),
    "a tag": ("run: !!python/object/apply:os.system ['true']", ("must be YAML", "python/object")),
    "a reference": ("a: &a {x: 1}\nrun: *a", ("a reference", "line 2")),
    "a key that is a number": ("run: {1: 2}", ("a key is a word",)),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_place(
    text: str, says: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        read_config(write(tmp_path / "elesh.yaml", text))
    for word in says:
        assert word in str(caught.value)
    assert "elesh.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot"):
        read_config(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match=r"\.toml"):
        read_config(write(tmp_path / "a.json", "{}"))
    with pytest.raises(UsageError, match="must be TOML"):
        read_config(write(tmp_path / "a.toml", "run = {mode = 'mask'}\n[run]\n"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="bytes"):
        read_config(tmp_path / "c.yaml")
