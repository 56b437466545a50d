"""Configuration files: the design's own, and every way in which one can be wrong."""

from pathlib import Path

import pytest

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.config_file import read_config
from zsei.errors import UsageError

DESIGN = """
elesh:
  # Worker settings (offline)
  analysis_workers_per_gpu: 4    # Workers during checkpoint analysis
  layers_per_worker: 8
  sketch_width: 100000
  sketch_depth: 10
  importance_history_epochs: 500
  structured_pruning:
    channel_analysis:
      taylor_weight: 0.5
      magnitude_weight: 0.3
      frequency_weight: 0.2
      redundancy_threshold: 0.95
      min_channels_per_layer: 16
    attention_analysis:
      entropy_weight: 0.3
      diversity_weight: 0.3
      gradient_weight: 0.4
      similarity_threshold: 0.95
      min_heads_per_layer: 2
    layer_analysis:
      taylor_threshold: 0.001
      similarity_threshold: 0.95
      skip_potential_threshold: 0.8
      max_layer_removal_ratio: 0.2
    safety_schedule:
      validation_epochs: 30
      conservative_epochs: 30
      moderate_epochs: 30
      aggressive_epochs: 30
    rollback_triggers:
      channel_accuracy_drop: 0.02
      head_accuracy_drop: 0.03
      layer_accuracy_drop: 0.05
  analysis_timeout: 300
  marking_threshold: 1e-8
  confidence_threshold: 0.95
  analysis_cache_size: 1GB
  parallel_analysis_threads: 16
  statistical_samples: 10000
  accuracy_targets:
    channel_importance_ranking:
      metric: "kendall_tau"
      target: 0.90
    attention_redundancy_detection:
      metric: "cosine_similarity_precision"
      target: 0.95
    layer_skip_potential:
      metric: "gradient_flow_preservation"
      target: 0.85
    structured_pruning_accuracy:
      metric: "MAPE_vs_Taylor"
      target: 0.03
"""
"""The configuration of the Elesh design, as it stands there."""


def _file(folder: Path, text: str, name: str = "elesh.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_design_is_read_as_the_defaults(tmp_path: Path) -> None:
    assert read_config(_file(tmp_path, DESIGN)) == CheckpointConfig() == read_config(None)


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    toml = _file(tmp_path, '[elesh]\nanalysis_cache_size = "2MB"\n[run]\nevery = 3\n', "c.toml")
    text = _file(tmp_path, "elesh:\n  analysis_cache_size: 2MB\nrun:\n  every: 3\n")
    found = read_config(toml)
    assert found == read_config(text)
    assert (found.elesh.analysis_cache_size, found.run.every) == (2 * 1024**2, 3)


@pytest.mark.parametrize("text", ["", "elesh:\n", "elesh:\nrun:\n", "{}"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert read_config(_file(tmp_path, text)) == CheckpointConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "elesh:\n  sketch_widht: 5\n",
            "no key `elesh.sketch_widht`; did you mean `elesh.sketch_w",
        ),
        ("elesh:\n  mode: mask\n", "no key `elesh.mode`; did you mean `run.mode`"),
        ("elesh:\n  zzz: 1\n", "no key `elesh.zzz`"),
        ("elesh:\n  sketch_width: 0\n", "`elesh.sketch_width` does not fit: .*but it is 0"),
        ("run:\n  target_sparsity: .nan\n", "`run.target_sparsity` does not fit"),
        ("run:\n  mode: prune\n", "`run.mode` does not fit"),
        ("- 1\n- 2\n", "the whole file"),
        ("elesh: [1\n", "is neither"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("elesh: !!python/object/apply:os.system [touch pwned]\n", "is neither"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(UsageError, match=said) as error:
        read_config(path)
    assert str(path) in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is neither"):
        read_config(tmp_path / "b.yaml")
    with pytest.raises(UsageError, match="is neither"):
        read_config(_file(tmp_path, "a = ", "c.toml"))
    with pytest.raises(UsageError, match="small file"):
        read_config(_file(tmp_path, "#" * 1024**2 + "\n"))
