"""Data of every kind becomes batches: read, fitted, split, encoded; and what is refused."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zsei.errors import DataError
from zsei.settings import Settings
from zsei.subject.data import Samples, load_data
from zsei.subject.default_text import standard_library_text
from zsei.subject.files import split_text
from zsei.subject.load import LoadedModel, load_model
from zsei.subject.split import quotas

SETTINGS = Settings(samples=32, batch_size=8, length=16)


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    return load_model(None, SETTINGS)


@pytest.fixture(scope="module")
def linear() -> LoadedModel:
    return load_model(nn.Linear(5, 3), SETTINGS)


def loaded(family: str) -> LoadedModel:
    return load_model(factories.FAMILIES[family]()[0], SETTINGS)


def rows(samples: Samples, place: int = 0) -> Tensor:
    return torch.cat([b.inputs[place] for b in (*samples.calibration, *samples.held_out)])


def texts(samples: Samples, model: LoadedModel, side: str) -> list[str]:
    place = samples.input_names.index("input_ids")
    ids = torch.cat([batch.inputs[place] for batch in getattr(samples, side)])
    return model.tokenizer.batch_decode(ids, skip_special_tokens=True)


# --- text --------------------------------------------------------------------------------------


def test_default_text_is_stable_prose_and_code() -> None:
    first, second = standard_library_text(), standard_library_text()
    assert first == second
    assert list(first) == ["prose", "code"]
    assert all(len(set(found)) == len(found) >= 300 for found in first.values())
    assert all(compile_like_code(text) for text in first["code"][:50])
    assert not any("\n" in text for text in first["prose"])


def compile_like_code(text: str) -> bool:
    return len(text.splitlines()) == 8 and any(sign in text for sign in "=(:")


def test_default_text_is_split_evenly_and_never_mixed(minilm: LoadedModel) -> None:
    samples = load_data(None, minilm, SETTINGS)
    assert samples.text
    assert samples.labels == "none"
    assert samples.notes == ("No data was given: text of Python's standard library stands in.",)
    assert samples.input_names == ("input_ids", "attention_mask")
    assert [len(side) for side in (samples.calibration, samples.held_out)] == [2, 2]
    for batch in (*samples.calibration, *samples.held_out):
        assert batch.inputs[0].shape == (8, 16)
        assert Counter(batch.groups) == {"prose": 4, "code": 4}
    both = texts(samples, minilm, "calibration"), texts(samples, minilm, "held_out")
    assert not set(both[0]) & set(both[1])
    assert len(set(both[0])) == 16


def test_same_seed_same_batches_and_another_seed_others(minilm: LoadedModel) -> None:
    first, second = (load_data(None, minilm, SETTINGS) for _ in range(2))
    assert torch.equal(rows(first), rows(second))
    other = load_data(None, minilm, Settings(samples=32, batch_size=8, length=16, seed=1))
    assert not torch.equal(rows(first), rows(other))


def test_padding_is_masked_and_long_texts_are_cut(minilm: LoadedModel) -> None:
    short, long = [f"word {n}" for n in range(4)], ["many words " * 20 + str(n) for n in range(4)]
    samples = load_data([*short, *long], minilm, SETTINGS)
    ids, mask = rows(samples), rows(samples, 1)
    assert ids.shape[1] == 16
    assert sorted(mask.sum(1).tolist()) == [4] * 4 + [16] * 4
    assert bool(((ids == 0) == (mask == 0)).all())
    batch = samples.calibration[0]
    assert batch.mask is not None
    assert torch.equal(batch.mask, batch.inputs[1].bool())
    even = load_data([f"number {n}" for n in range(4)], minilm, SETTINGS)
    assert even.calibration[0].mask is None, "nothing is padded"


def test_text_file_by_paragraphs_lines_and_pieces(tmp_path: Path, minilm: LoadedModel) -> None:
    assert split_text("a\nb\n\nc\n\nd\n\ne") == ("a\nb", "c", "d", "e")
    assert split_text("a\nb\n\nc\nd") == ("a", "b", "c", "d")
    pieces = split_text("word " * 400)
    assert len(pieces) == 5
    assert " ".join(pieces).split() == ["word"] * 400
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(f"paragraph number {n}" for n in range(10)))
    samples = load_data(path, minilm, SETTINGS)
    assert set(samples.calibration[0].groups) == {"notes"}
    assert "paragraph number 3" in texts(samples, minilm, "calibration") + texts(
        samples, minilm, "held_out"
    )


def test_named_groups_share_the_samples(tmp_path: Path, minilm: LoadedModel) -> None:
    for name, count in (("few", 4), ("many", 100)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name} {n}" for n in range(count)))
    data = {"small": tmp_path / "few.txt", "large": tmp_path / "many.txt"}
    samples = load_data(data, minilm, SETTINGS)
    groups = Counter(g for b in (*samples.calibration, *samples.held_out) for g in b.groups)
    assert groups["small"] == 4
    assert sum(groups.values()) >= 28
    folder = load_data(tmp_path, minilm, SETTINGS)
    assert {g for b in folder.calibration for g in b.groups} == {"few", "many"}


def test_duplicates_are_dropped_and_said(minilm: LoadedModel) -> None:
    samples = load_data(["a", "b", "c", "d"] * 5, minilm, SETTINGS)
    assert rows(samples).shape[0] == 4
    assert any("16 duplicates" in note for note in samples.notes)


def test_rows_left_over_are_said(minilm: LoadedModel) -> None:
    samples = load_data([f"text {n}" for n in range(5)], minilm, SETTINGS)
    assert rows(samples).shape[0] == 4
    assert samples.notes == ("1 rows were left over: batches have one fixed size.",)


# --- pairs and labels --------------------------------------------------------------------------


def stsb(path: Path, header: bool) -> Path:
    lines = [f"first {n},second {n},{n % 6}.0" for n in range(12)]
    path.write_text("\n".join((["sentence1,sentence2,score"] if header else []) + lines))
    return path


@pytest.mark.parametrize("header", [True, False])
def test_pairs_lie_side_by_side_with_scaled_scores(
    tmp_path: Path, minilm: LoadedModel, header: bool
) -> None:
    samples = load_data(stsb(tmp_path / "sts.csv", header), minilm, SETTINGS)
    assert samples.labels == "score"
    assert "Scores were divided by 5." in samples.notes
    for side in ("calibration", "held_out"):
        found = texts(samples, minilm, side)
        labels = torch.cat([b.labels for b in getattr(samples, side) if b.labels is not None])
        for i in range(0, len(found), 2):
            number = int(found[i].split()[1])
            assert found[i : i + 2] == [f"first {number}", f"second {number}"]
            assert labels[i] == labels[i + 1] == pytest.approx(number % 6 / 5)


def test_a_sentence_of_two_pairs_stays_on_one_side(minilm: LoadedModel) -> None:
    records = [
        {"sentence1": f"shared {n % 3}", "sentence2": f"own {n}", "score": n / 20}
        for n in range(20)
    ]
    samples = load_data(records, minilm, SETTINGS)
    sides = [set(texts(samples, minilm, side)) for side in ("calibration", "held_out")]
    assert not sides[0] & sides[1]


def test_labels_by_name_become_numbers(tmp_path: Path, minilm: LoadedModel) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "\n".join(
        f'"good, or {n}",{"pos" if n % 2 else "neg"}' for n in range(8)))  # fmt: skip
    samples = load_data(path, minilm, SETTINGS)
    assert samples.labels == "class"
    assert "Classes: neg = 0, pos = 1." in samples.notes
    for side in ("calibration", "held_out"):
        labels = torch.cat([b.labels for b in getattr(samples, side) if b.labels is not None])
        numbers = [int(text.split()[-1]) % 2 for text in texts(samples, minilm, side)]
        assert labels.tolist() == numbers


def test_labels_only_some_groups_have_are_left_out(minilm: LoadedModel) -> None:
    one = [{"text": f"a {n}", "label": 1} for n in range(4)]
    samples = load_data({"one": one, "two": [f"b {n}" for n in range(4)]}, minilm, SETTINGS)
    assert samples.labels == "none"
    assert any("not every group" in note for note in samples.notes)


def test_pairs_are_one_input_of_a_sequence_classifier() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    demo = load_model(None, SETTINGS)
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, num_labels=3)  # fmt: skip
    model = LoadedModel(
        source=demo.source,
        model=BertForSequenceClassification(config),
        family="bert",
        tokenizer=demo.tokenizer,
    )
    records = [{"premise": f"p {n}", "hypothesis": f"h {n}", "label": n % 3} for n in range(8)]
    samples = load_data(records, model, SETTINGS)
    assert samples.labels == "class"
    assert samples.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert rows(samples).shape[0] == 8
    assert bool((rows(samples, 2).sum(1) > 0).all())


# --- arrays ------------------------------------------------------------------------------------


def test_tensor_pair_and_npz_give_the_same(tmp_path: Path, linear: LoadedModel) -> None:
    x, y = torch.randn(20, 5), torch.arange(20) % 3
    np.savez(tmp_path / "points.npz", x=x.numpy().astype(np.float64), y=y.numpy())
    python = load_data((x, y), linear, SETTINGS)
    file = load_data(tmp_path / "points.npz", linear, SETTINGS)
    assert torch.equal(rows(python), rows(file))
    assert rows(file).dtype == torch.float32
    assert (python.labels, file.labels) == ("class", "class")
    assert python.input_names == ("input",)
    for batch in python.calibration:
        assert batch.labels is not None
        for row, label in zip(batch.inputs[0], batch.labels, strict=True):
            assert label == y[(x == row).all(1)].item(), "labels stay with their rows"


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return (left + right) * scale


@pytest.mark.parametrize("wrap", [dict, lambda d: {"group": d}])
def test_named_arrays_go_to_the_arguments_of_their_names(
    wrap: Callable[[dict[str, Tensor]], Any],
) -> None:
    data = {"right": torch.ones(6, 2) * torch.arange(6)[:, None], "left": torch.randn(6, 2)}
    samples = load_data(wrap(data), load_model(Two(), SETTINGS), SETTINGS)
    assert samples.input_names == ("left", "right")
    for left, right in zip(rows(samples), rows(samples, 1), strict=True):
        assert torch.equal(left, data["left"][int(right[0])])


def test_an_input_called_like_a_label_is_an_input(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, target: Tensor) -> Tensor:
            return x + target

    np.savez(tmp_path / "pair.npz", x=np.random.randn(6, 2), target=np.random.randn(6, 2))
    samples = load_data(tmp_path / "pair.npz", load_model(Pair(), SETTINGS), SETTINGS)
    assert (samples.input_names, samples.labels) == (("x", "target"), "none")


def test_loaders_data_sets_and_endless_iterables(linear: LoadedModel) -> None:
    x, y = torch.randn(24, 5), torch.arange(24) % 3
    dataset = TensorDataset(x, y)

    def endless() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(7, 5, generator=generator)

    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return x[i], int(y[i])

    for data in (DataLoader(dataset, batch_size=5), dataset, Items(), [(x, y)]):
        samples = load_data(data, linear, SETTINGS)
        assert samples.labels == "class"
        assert {tuple(r.tolist()) for r in rows(samples)} == {tuple(r.tolist()) for r in x}
    assert rows(load_data(endless(), linear, SETTINGS)).shape == (32, 5)


class Columns:
    """What of a `datasets.Dataset` is relied on."""

    def __init__(self, records: list[dict[str, Any]]):
        self.records = records
        self.column_names = list(records[0])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.records[i]


def test_a_datasets_object(minilm: LoadedModel) -> None:
    data = Columns([{"idx": n, "sentence": f"text {n}", "label": n % 2} for n in range(12)])
    samples = load_data(data, minilm, SETTINGS)
    assert samples.labels == "class"
    assert "text 7" in texts(samples, minilm, "calibration") + texts(samples, minilm, "held_out")


def test_tokens_of_different_lengths_are_padded(tmp_path: Path) -> None:
    model = loaded("gpt2")
    lines = [json.dumps({"tokens": list(range(1, 3 + n % 3)), "id": n}) for n in range(3)]
    (tmp_path / "tokens.jsonl").write_text("\n".join(lines))
    samples = load_data(tmp_path / "tokens.jsonl", model, SETTINGS)
    assert samples.input_names == ("input_ids", "attention_mask")
    assert rows(samples).shape[1] == 4
    assert bool(((rows(samples) == 0) == (rows(samples, 1) == 0)).all())


def test_bytes_are_images_for_models_of_real_inputs() -> None:
    model = loaded("vit")
    pixels = torch.randint(0, 256, (8, 1, 16, 16)).to(torch.uint8)
    samples = load_data({"pixel_values": pixels}, model, SETTINGS)
    assert rows(samples).dtype == torch.float32
    assert 0 <= float(rows(samples).min()) < float(rows(samples).max()) <= 1
    assert "Bytes in pixel_values were divided by 255." in samples.notes


def test_encoder_decoders_get_their_input_one_step_later() -> None:
    model, data = factories.tiny_t5()
    samples = load_data(data, load_model(model, SETTINGS), SETTINGS)
    assert samples.input_names == ("input_ids", "decoder_input_ids")
    assert torch.equal(rows(samples)[:, :-1], rows(samples, 1)[:, 1:])
    assert bool((rows(samples, 1)[:, 0] == 0).all())


def test_targets_of_encoder_decoders_are_labels_where_the_objective_looks() -> None:
    model, data = factories.tiny_t5()
    targets = factories.token_ids(length=6).flip(0)
    targets[:, -1] = -100
    samples = load_data(data | {"labels": targets}, load_model(model, SETTINGS), SETTINGS)
    assert samples.labels == "tokens"
    batch = samples.calibration[0]
    assert batch.labels is not None
    decoder = batch.inputs[1]
    # Position t of the decoder has read decoder[: t + 1] and is to say labels[t + 1].
    assert torch.equal(batch.labels[:, 1:], decoder[:, 1:])
    assert batch.mask is not None
    assert batch.mask.shape == decoder.shape


def test_numeric_table(tmp_path: Path, linear: LoadedModel) -> None:
    values = np.random.default_rng(0).normal(size=(12, 5))
    lines = [",".join(["a", "target", "b", "c", "d", "e"])]
    lines += [",".join(map(str, [row[0], n % 3, *row[1:]])) for n, row in enumerate(values)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    samples = load_data(tmp_path / "table.csv", linear, SETTINGS)
    assert samples.labels == "class"
    assert rows(samples).shape == (12, 5)
    expected = {tuple(row) for row in values.astype(np.float32).tolist()}
    assert {tuple(row) for row in rows(samples).tolist()} == expected
    (tmp_path / "bare.csv").write_text(
        "\n".join(",".join(map(str, [*r, r[0] / 2])) for r in values)
    )
    assert load_data(tmp_path / "bare.csv", linear, SETTINGS).labels == "value"


def test_a_series_is_cut_into_windows(tmp_path: Path) -> None:
    series = torch.randn(400, 2)
    lines = ["load,heat", *(f"{a},{b}" for a, b in series.tolist())]
    (tmp_path / "series.csv").write_text("\n".join(lines))
    samples = load_data(tmp_path / "series.csv", loaded("patchtst"), SETTINGS)
    assert samples.labels == "value"
    assert rows(samples).shape == (10, 32, 2)
    for batch in (*samples.calibration, *samples.held_out):
        assert batch.labels is not None
        for window, after in zip(batch.inputs[0], batch.labels, strict=True):
            start = int((series - window[0]).abs().sum(1).argmin())
            torch.testing.assert_close(window, series[start : start + 32])
            torch.testing.assert_close(after, series[start + 32 : start + 40])


@pytest.mark.parametrize(
    ("available", "total", "expected"),
    [
        ({"a": 100, "b": 100}, 10, {"a": 5, "b": 5}),
        ({"a": 2, "b": 100}, 10, {"a": 2, "b": 8}),
        ({"a": 3, "b": 3}, 100, {"a": 3, "b": 3}),
        ({"a": 5, "b": 5, "c": 5}, 10, {"a": 4, "b": 3, "c": 3}),
    ],
)
def test_quotas(available: dict[str, int], total: int, expected: dict[str, int]) -> None:
    assert quotas(available, total) == expected


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "at least two"),
        ({}, "at least two"),
        (["only one"], "at least two different"),
        (["same", "same"], "at least two different"),
        ([1, 2, 3], "plain numbers"),
        (3, "a int is none"),
        ("no/such/file.txt", "there is none at"),
        ("a text\nof two lines", "names a file"),
        ([{"other": "x"}, {"other": "y"}], "does not"),
        ([{"text": "a"}, {"label": 1}], "lacks 'text'"),
        ([{"text": 3}, {"text": 4}], "must hold text"),
        ({"sentence1": ["a", "b"], "sentence2": ["a"]}, "their lengths differ"),
        ([{"sentence1": f"a{n}", "sentence2": f"b{n}", "score": 700} for n in range(4)],
         "Scores of pairs"),
    ],
)  # fmt: skip
def test_data_that_is_none_for_a_text_model(minilm: LoadedModel, data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(data, minilm, SETTINGS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "Only models with a tokenizer have default data; Linear takes input"),
        (["text", "more text"], "brings none"),
        (torch.zeros(0, 5), "at least two"),
        (torch.zeros(1, 5), "at least two different"),
        ((torch.randn(4, 5), torch.zeros(3)), "one entry per sample"),
        ({"x": torch.randn(4, 5), "label": torch.zeros(3)}, "one entry per sample"),
        ({"input": torch.randn(4, 5), "y": ["a", "b", "c"]}, "one entry per sample"),
        (torch.full((4, 5), torch.nan), "NaN or infinity in 4 of 4"),
        ((torch.randn(4, 5), torch.tensor([1.0, 2.0, torch.nan, 4.0])), "Labels must be finite"),
        (torch.randn(4, 5) + 1j, "complex"),
        ([torch.randn(4, 5), torch.randn(4, 6)], "in one shape"),
    ],
)
def test_arrays_that_do_not_fit(linear: LoadedModel, data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(data, linear, SETTINGS)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"\n \n", "is empty"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "must be UTF-8"),
        ("lines.jsonl", b'{"text": "a"}\n{oops', "line 2 of"),
        ("list.jsonl", b"[1]", "must be an object"),
        ("wide.csv", b"a,b\nc,d,e", "as many columns"),
        ("head.csv", b"text,label", "at least two"),
        ("many.csv", b"a,b,c,1\nd,e,f,2", "Add a header"),
        ("data.parquet", b"x", "is none of them"),
        ("broken.npz", b"x", "cannot be read"),
        ("series.npz", b"", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, minilm: LoadedModel, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_data(tmp_path / name, minilm, SETTINGS)


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path, linear: LoadedModel) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(DataError, match="without objects"):
        load_data(path, linear, SETTINGS)


def test_folder_without_data_and_two_groups_of_one_name(
    tmp_path: Path, minilm: LoadedModel
) -> None:
    with pytest.raises(DataError, match="has none"):
        load_data(tmp_path, minilm, SETTINGS)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text("one\ntwo\nthree\nfour")
    with pytest.raises(DataError, match="'same' comes twice"):
        load_data([tmp_path / "a" / "same.txt", tmp_path / "b" / "same.txt"], minilm, SETTINGS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"input_ids": torch.randn(4, 8)}, "whole numbers"),
        ({"input_ids": torch.full((4, 8), factories.VOCABULARY)}, "0 .. 63"),
        ({"input_ids": torch.full((4, 8), -1)}, "0 .. 63"),
        ({"input_ids": torch.ones(4, 8).long(), "wrong": torch.ones(4, 8)},
         "named like forward's arguments"),
        (None, "Only models with a tokenizer"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(data, loaded("bert"), SETTINGS)


def test_a_missing_input_is_named() -> None:
    with pytest.raises(DataError, match="lacks right"):
        load_data({"left": torch.randn(4, 2)}, load_model(Two(), SETTINGS), SETTINGS)


def test_a_series_too_short() -> None:
    with pytest.raises(DataError, match=r"two windows of 32 \+ 8"):
        load_data({"past_values": torch.randn(60, 2)}, loaded("patchtst"), SETTINGS)
