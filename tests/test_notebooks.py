"""Every chapter's file is fit to be committed. The rules: rlbook/book/hygiene.py."""

from pathlib import Path

import pytest

from rlbook.book.hygiene import problems
from rlbook.book.manifest import read_book

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOK = read_book(ROOT / "book.yml")


@pytest.mark.skipif(not NOTEBOOKS, reason="there are no notebooks yet")
def test_contents_and_notebooks_agree() -> None:
    BOOK.check_notebooks(ROOT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_chapter_is_fit_to_be_committed(path: Path) -> None:
    found = problems(path, BOOK)
    assert not found, f"{path.stem}:\n" + "\n".join(f"  {problem}" for problem in found)
