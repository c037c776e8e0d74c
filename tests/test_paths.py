"""Where the book is looked for."""

from pathlib import Path

import pytest

from rlbook import paths

pytestmark = pytest.mark.usefixtures("clean_env")


def test_the_checkout_is_found_from_anywhere(root: Path) -> None:
    assert paths.book_root() == root
    assert paths.book_yml() == root / "book.yml"
    assert paths.data_folder() == root / "data"


def test_a_book_around_the_current_folder_comes_first(
    small_book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_book / "notebooks")
    assert paths.book_root() == small_book


def test_home_comes_before_all(small_book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLBOOK_HOME", str(small_book))
    assert paths.book_root() == small_book
    monkeypatch.setenv("RLBOOK_HOME", str(small_book / "notebooks"))
    with pytest.raises(ValueError, match=r"RLBOOK_HOME=.*: no book\.yml and notebooks/"):
        paths.book_root()


def test_without_a_checkout_the_packaged_copy_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "site-packages" / "rlbook")
    assert paths.book_root() is None
    assert paths.book_yml() == paths.PACKAGED / "book.yml"
    assert paths.data_folder() == paths.PACKAGED / "data"


def test_data_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLBOOK_DATA", str(tmp_path / "mine"))
    assert paths.data_folder() == tmp_path / "mine"


def test_state_is_named_off_or_in_the_usual_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RLBOOK_STATE", str(tmp_path / "mine"))
    assert paths.state_folder() == tmp_path / "mine"
    monkeypatch.setenv("RLBOOK_STATE", "off")
    assert paths.state_folder() is None
    monkeypatch.delenv("RLBOOK_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert paths.state_folder() == tmp_path / "rlbook"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert paths.state_folder() == Path.home() / ".local" / "state" / "rlbook"
