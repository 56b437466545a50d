"""A file of claims is read strictly: whatever is wrong is named with its line or its claim."""

from pathlib import Path

import pytest

from zsei.claims.read import read_claims
from zsei.errors import UsageError

GOOD = """\
title: What was promised
model: tests.factories:tiny_bert
workload: {batch: 4, samples: 16, threads: 1}
claims:
  - id: faster
    kind: speed-up
    steps: [{speedup: inference-mode}]
    at_least: 2
    at_most: 4
    unit: x
    quote: 2 to 4 times faster
  - id: quick
    kind: latency
    at_most: 10
    at: {batch: 1}
  - id: cores
    kind: scaling
    table: {2: [1.8, 1.9], 4: 3.5, 8: {at_least: 6.5}}
  - id: same
    kind: difference
    steps: [{speedup: inference-mode}]
    at_most: 1e-5
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "claims.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_a_file_says_is_what_is_read(tmp_path: Path) -> None:
    file = read_claims(written(tmp_path, GOOD))
    faster, quick, cores, same = file.claims
    assert faster.limits == (2, None)  # of a range of which more is better the lower end counts
    assert faster.ways == ((faster.steps[0],),)
    assert quick.limits == (None, 10)
    assert quick.measured_in == "ms/sample"
    assert quick.at.batch == 1
    assert {k: (f.at_least, f.at_most) for k, f in cores.table.items()} == {
        2: (1.8, 1.9), 4: (3.5, None), 8: (6.5, None),
    }  # fmt: skip
    assert same.limits == (None, 1e-5)
    assert file.use_of(same) == "inference"


def test_of_a_range_of_latency_the_upper_end_is_claimed(tmp_path: Path) -> None:
    text = GOOD.replace("    at_most: 10\n", "    at_least: 5\n    at_most: 10\n")
    assert read_claims(written(tmp_path, text)).claims[1].limits == (None, 10)


WRONG = {
    "unknown kind": (
        "kind: speed-up",
        "kind: miracle",
        ["line 6", "'faster'", "'miracle'", "latency"],
    ),
    "unknown unit": (
        "unit: x",
        "unit: furlongs",
        ["line 10", "'faster'", "'furlongs'", "ms/sample"],
    ),
    "a unit of another kind": ("unit: x", "unit: '%'", ["'faster'", "speed-up", "in x", "'%'"]),
    "an unknown step": (
        "inference-mode",
        "warp-drive",
        ["'faster'", "warp-drive", "inference-mode"],
    ),
    "parameters that do not fit": (
        "{speedup: inference-mode}]\n    at_least",
        "{speedup: inference-mode, params: {a: 1}}]\n    at_least",
        ["'faster'", "a: "],
    ),
    "an unknown key": ("quote:", "quotation:", ["line 11", "'faster'", "quotation", "quote"]),
    "an unknown key at the top": ("title:", "heading:", ["line 1:", "heading", "title"]),
    "an unknown key of the workload": ("samples:", "sample:", ["line 3", "sample", "samples"]),
    "a limit of zero": ("at_least: 2", "at_least: 0", ["line 8", "'faster'", "greater than 0"]),
    "a limit that is no number": ("at_least: 2", "at_least: two", ["'faster'", "'two'"]),
    "yes for a number": ("at_least: 2", "at_least: yes", ["'faster'", "not yes or no"]),
    "infinity": ("at_least: 2", "at_least: .inf", ["'faster'", "finite"]),
    "limits the wrong way round": ("at_least: 2", "at_least: 5", ["'faster'", "5 lies above", "4"]),
    "factors the wrong way round": (
        "[1.8, 1.9]",
        "[1.9, 1.8]",
        ["line 18", "'cores'", "1.9 lies above"],
    ),
    "no limit": ("    at_most: 10\n", "", ["'quick'", "at_least, at_most or both"]),
    "one id twice": ("id: quick", "id: faster", ["faster", "more than once"]),
    "an id with spaces": ("id: quick", "id: quick one", ["line 12", "'quick one'"]),
    "a table of another kind": ("at: {batch: 1}", "table: {2: 2}", ["'quick'", "only scaling"]),
    "no table": (
        "table: {2: [1.8, 1.9], 4: 3.5, 8: {at_least: 6.5}}",
        "use: inference",
        ["'cores'", "needs a table"],
    ),
    "no steps": (
        "    steps: [{speedup: inference-mode}]\n    at_least",
        "    at_least",
        ["'faster'", "needs the steps"],
    ),
    "an empty batch": ("batch: 4", "batch: 0", ["line 3", "batch", "greater than 0"]),
    "no claims": (
        GOOD[GOOD.index("claims:") :],
        "claims: []\n",
        ["line 4", "claims", "at least 1"],
    ),
    "no model": ("model: tests.factories:tiny_bert\n", "", ["model", "missing"]),
    "one key twice": (
        "    at_most: 10\n",
        "    at_most: 10\n    at_most: 11\n",
        ["line 12", "'at_most'", "2 times"],
    ),
    "no YAML": ("model: tests", "model: [tests", ["line", "YAML"]),
    "a tag that would run code": (
        "title: What was promised",
        "title: !!python/name:os.system",
        ["python/name"],
    ),
}


@pytest.mark.parametrize(("old", "new", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, says: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        read_claims(written(tmp_path, GOOD.replace(old, new, 1)))
    for words in says:
        assert words in str(caught.value)
    assert "claims.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing"),
        ("[1, 2]", "[1, 2]"),
        ("- a\n- b", "mapping"),
        ("# only a remark", "nothing"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match="mapping") as caught:
        read_claims(written(tmp_path, text))
    assert says in str(caught.value)


def test_a_file_that_is_not_there_a_folder_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_claims(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match="can be read"):
        read_claims(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_claims(tmp_path / "bytes.yaml")


def test_aliases_cannot_unfold_without_end(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(UsageError, match="unfolds to more"):
        read_claims(written(tmp_path, "\n".join(lines)))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bytes"):
        read_claims(written(tmp_path, "#" * 1_000_001))
