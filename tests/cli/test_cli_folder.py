"""An output folder is written whole or not at all."""

import errno
from pathlib import Path

import pytest

from zsei.cli.folder import check_folder, written_whole
from zsei.errors import OutputError, UsageError


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_new_folder_appears_with_everything_in_it(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a" / "out") as draft:
        (draft / "one").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert everything(tmp_path) == ["a", "a/out", "a/out/one"]


def test_files_of_the_same_name_are_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "one").write_text("old")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "kept").write_text("kept")
    with written_whole(tmp_path) as draft:
        (draft / "one").write_text("new")
        (draft / "deep").mkdir()
        (draft / "deep" / "two").write_text("2")
    assert everything(tmp_path) == ["deep", "deep/kept", "deep/two", "mine", "one"]
    assert (tmp_path / "one").read_text() == "new"


def write_then_raise(folder: Path, trouble: BaseException) -> None:
    with written_whole(folder) as draft:
        (draft / "one").write_text("new")
        raise trouble


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize(
    "trouble", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr
)
def test_trouble_leaves_the_folder_as_it_was(
    tmp_path: Path, existing: bool, trouble: BaseException
) -> None:
    out = tmp_path / "out"
    if existing:
        out.mkdir()
        (out / "one").write_text("old")
    before = everything(tmp_path)
    expected = OutputError if isinstance(trouble, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_then_raise(out, trouble)
    assert everything(tmp_path) == before
    if existing:
        assert (out / "one").read_text() == "old"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"No space left on device; free some space"),
        written_whole(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_place_that_cannot_be_a_folder_is_refused_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file")
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file" / "deeper")
    check_folder(tmp_path / "not" / "yet" / "there")
    assert not (tmp_path / "not").exists()
