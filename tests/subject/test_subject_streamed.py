"""Streamed models: when, from what files, and that nothing of them changes on the way."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.factories import tiny_bert, tiny_llama
from zsei.analyzers.check_paths import FEWEST_PATHS
from zsei.errors import ModelError
from zsei.settings import Settings
from zsei.subject import streamed, streamed_files
from zsei.subject.load import load_model
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash
from zsei.subject.streamed import available_memory, fitted, mapped_weights, release


def saved(folder: Path, dtype: torch.dtype = torch.float32, **config: object) -> Path:
    """A tiny decoder in shards."""
    model: Any = tiny_llama(**config)[0]
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    return folder


def settings(home: Path, **given: object) -> Settings:
    return Settings.model_validate({"home": home / "home", "stream": "always", **given})


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_streamed_model_has_the_weights_of_one_that_is_held(tmp_path: Path, dtype: torch.dtype):
    folder = saved(tmp_path / "model", dtype)
    before = digests(folder)
    mapped = load_model(folder, settings(tmp_path))
    held = load_model(folder, settings(tmp_path, stream="never"))
    assert mapped_weights(mapped.model) is not None
    assert mapped_weights(held.model) is None
    assert model_hash(mapped.model) == model_hash(held.model)
    assert all(p.dtype == torch.float32 for p in mapped.model.parameters())
    assert digests(folder) == before
    assert any("streamed" in note for note in mapped.notes)


def test_weights_lie_in_the_mapped_file_and_outlive_the_folder(tmp_path: Path):
    folder = saved(tmp_path / "model", torch.bfloat16)
    model = load_model(folder, settings(tmp_path)).model
    weights = mapped_weights(model)
    assert weights is not None
    held = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert weights.bytes == sum(4 * p.numel() for p in model.parameters())
    assert list((tmp_path / "home").iterdir()) == []
    release(model)
    assert all(torch.equal(p, held[name]) for name, p in model.named_parameters())


def test_giving_back_leaves_what_is_not_mapped(tmp_path: Path):
    model = load_model(saved(tmp_path / "model"), settings(tmp_path)).model
    own = torch.arange(100_000.0)
    release(model, (own, own[5:]))
    assert torch.equal(own, torch.arange(100_000.0))


def test_resident_memory_falls_when_weights_are_given_back(tmp_path: Path):
    folder = saved(tmp_path / "model", hidden_size=512, intermediate_size=2048)
    model = load_model(folder, settings(tmp_path)).model
    weights = mapped_weights(model)
    if weights is None or not weights.spans:
        pytest.skip("this system does not say what is mapped")
    parameters = list(model.parameters())
    sum(float(p.detach().sum()) for p in parameters)
    read = _resident(weights.spans)
    release(model)
    assert read >= weights.bytes
    assert _resident(weights.spans) < read / 10


def _resident(spans: tuple[tuple[int, int], ...]) -> int:
    """Bytes of mappings inside `spans` that are resident in this process."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            inside = any(a <= low and high <= b for a, b in spans)
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_auto_asks_whether_four_copies_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "model")
    whole = sum(4 * p.numel() for p in load_model(folder, Settings()).model.parameters()) / 1e9
    monkeypatch.setattr(streamed, "ROOM", 0.0)
    assert streamed.plan(folder, settings(tmp_path, stream="auto", memory=4.01 * whole)) == ()
    stored = streamed.plan(folder, settings(tmp_path, stream="auto", memory=3.99 * whole))
    assert sum(tensor.float_bytes for tensor in stored) == pytest.approx(whole * 1e9)
    assert streamed.plan(folder, settings(tmp_path, stream="never", memory=3.99 * whole)) == ()


def test_memory_is_what_is_set_else_what_the_system_has():
    assert available_memory(Settings(memory=3.5)) == 3.5
    assert 0 < available_memory(Settings()) < 1e6


def test_a_model_without_mapped_weights_keeps_its_settings():
    assert fitted(Settings(), torch.nn.Linear(2, 2)) == (Settings(), ())


def test_a_streamed_analysis_is_smaller_where_nothing_was_set(tmp_path: Path):
    given = settings(tmp_path, samples=64)
    model = load_model(saved(tmp_path / "model"), given).model
    smaller, notes = fitted(given, model)
    assert smaller.samples == 64
    assert (smaller.batch_size, smaller.truth_samples) == (4, 4)
    assert smaller.random_paths == FEWEST_PATHS + 1
    assert "batch_size 16 -> 4" in notes[0]
    assert "random_paths 200 -> 20" in notes[0]
    assert fitted(smaller, model) == (smaller, ())


def test_a_streamed_analysis_keeps_the_random_paths_that_were_set(tmp_path: Path):
    given = settings(tmp_path, random_paths=40)
    model = load_model(saved(tmp_path / "model"), given).model
    assert fitted(given, model)[0].random_paths == 40


def test_the_program_of_a_streamed_model_answers_as_the_model(tmp_path: Path):
    folder = saved(tmp_path / "model", torch.bfloat16)
    _, data = tiny_llama()
    subject = prepare(folder, data, settings=settings(tmp_path))
    held = prepare(folder, data, settings=settings(tmp_path, stream="never", batch_size=4))
    assert subject.program is not None
    assert held.program is not None
    batch = held.calibration[0]
    assert torch.equal(subject.program(*batch.inputs), held.program(*batch.inputs))
    assert subject.model_hash == held.model_hash == model_hash(subject.model)


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = saved(tmp_path / "model")
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"{shards[1].name} \(1 of {len(shards)}\).*again"):
        load_model(folder, settings(tmp_path))


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path):
    folder = saved(tmp_path / "model")
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(ModelError, match=rf"{shard.name} holds .* of .* bytes.*cut off"):
        load_model(folder, settings(tmp_path))
    shard.write_bytes(content[:40])
    with pytest.raises(ModelError, match=rf"{shard.name} does not, or it is cut off"):
        load_model(folder, settings(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no header", (10**9).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_no_weight_file_is_refused(tmp_path: Path, content: bytes):
    folder = saved(tmp_path / "model")
    sorted(folder.glob("*.safetensors"))[0].write_bytes(content)
    with pytest.raises(ModelError, match="must start with a safetensors header"):
        load_model(folder, settings(tmp_path))


def test_an_index_that_maps_nothing_is_refused(tmp_path: Path):
    folder = saved(tmp_path / "model")
    (folder / streamed_files.INDEX).write_text(json.dumps({"weight_map": 3}), encoding="utf-8")
    with pytest.raises(ModelError, match="must map weight names to files"):
        load_model(folder, settings(tmp_path))


def test_too_little_memory_says_how_much_it_takes(tmp_path: Path):
    folder = saved(tmp_path / "model")
    with pytest.raises(ModelError, match=r"1\.0 GB for model and 0\.5 GB are free"):
        load_model(folder, settings(tmp_path, memory=0.5))
    with pytest.raises(ModelError, match="Set stream=auto"):
        load_model(folder, settings(tmp_path, stream="never", memory=1e-6))


def test_too_little_disk_says_how_much_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path / "model", torch.bfloat16)
    monkeypatch.setattr(streamed_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match=r"float32 copy.*Make room, point the setting home"):
        load_model(folder, settings(tmp_path))
    assert list((tmp_path / "home").iterdir()) == []


def test_a_folder_in_float32_needs_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model: Any = tiny_bert()[0]
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(streamed, "widen", lambda *_: pytest.fail("nothing to widen"))
    loaded = load_model(tmp_path / "model", settings(tmp_path))
    assert mapped_weights(loaded.model) is not None
