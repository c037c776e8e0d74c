"""A reader's progress: what is remembered, and that a check never fails for it."""

import json
from pathlib import Path

import pytest

from rlbook.checks import progress


@pytest.fixture
def folder(clean_env: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state folder that does not exist yet."""
    state = tmp_path / "deep" / "state"
    monkeypatch.setenv("RLBOOK_STATE", str(state))
    return state


def test_the_latest_status_is_remembered(folder: Path) -> None:
    assert progress.read() == {}
    progress.record("a", "not attempted")
    progress.record("b", "right")
    progress.record("a", "wrong")
    assert progress.read() == {"a": "wrong", "b": "right"}
    assert [path.name for path in folder.iterdir()] == [progress.FILE]


@pytest.mark.parametrize("later", ["wrong", "not attempted"])
def test_once_right_stays_right(folder: Path, later: str) -> None:
    progress.record("a", "wrong")
    progress.record("a", "right")
    progress.record("a", later)
    assert progress.read() == {"a": "right"}


def test_the_same_status_writes_nothing(folder: Path) -> None:
    progress.record("a", "wrong")
    before = (folder / progress.FILE).stat().st_ino
    progress.record("a", "wrong")
    assert (folder / progress.FILE).stat().st_ino == before


def test_off_writes_and_reads_nothing(
    clean_env: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("RLBOOK_STATE", "off")
    progress.record("a", "right")
    assert progress.read() == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff\xfe", b"", b"3"])
def test_a_damaged_file_is_started_afresh(folder: Path, damage: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / progress.FILE).write_bytes(damage)
    assert progress.read() == {}
    progress.record("a", "right")
    assert json.loads((folder / progress.FILE).read_text(encoding="utf-8")) == {"a": "right"}


def test_entries_that_are_no_status_are_left_out(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / progress.FILE).write_text('{"a": "right", "b": 3}', encoding="utf-8")
    assert progress.read() == {"a": "right"}


def test_a_file_that_cannot_be_read_is_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress.record("a", "right")

    def forbidden(*_: object, **__: object) -> str:
        raise PermissionError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", forbidden)
        progress.record("b", "right")
        assert progress.read() == {}
    assert progress.read() == {"a": "right"}


def test_a_folder_that_cannot_be_made_does_no_harm(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file, not a folder", encoding="utf-8")
    progress.record("a", "right")
    assert progress.read() == {}
    assert folder.read_text(encoding="utf-8") == "a file, not a folder"


def test_a_write_that_fails_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress.record("a", "wrong")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(progress.os, "replace", full)
    progress.record("a", "right")
    assert progress.read() == {"a": "wrong"}
    assert [path.name for path in folder.iterdir()] == [progress.FILE]


def test_a_user_without_a_home_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(progress.paths, "state_folder", homeless)
    progress.record("a", "right")
    assert progress.read() == {}
