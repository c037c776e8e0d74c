"""Shared by all tests: the places they look at, and which machines they skip on."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode, v4

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slow tests, and skip those marked gpu where there is no accelerator.

    A slow test that came last would keep one process busy while the others have nothing to do.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def real_data() -> Path:
    """The folder of real data, RLBOOK_REAL_DATA; the test is skipped where it is absent."""
    folder = Path(os.environ.get("RLBOOK_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set RLBOOK_REAL_DATA (looked in {folder})")
    return folder


@pytest.fixture
def clean_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No RLBOOK_ variable of the user's, and a current folder outside the checkout."""
    for name in ("RLBOOK_HOME", "RLBOOK_DATA", "RLBOOK_STATE", "RLBOOK_PRESET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


BOOK = """\
format: jb-book
root: notebooks/00_start
parts:
  - caption: "Part I"
    chapters:
      - file: notebooks/02_sums
meta:
  title: "A small book"
  parts: ["Part I", "Part II"]
  chapters:
    00_start:
      title: "Start"
      summary: "Where to begin."
      prerequisites: []
      run_minutes: {cpu: 0.1, gpu: 0.1}
      study_minutes: 30
      introduces: []
      exercises: []
      studies: []
    02_sums:
      title: "Sums"
      summary: "Adding up."
      prerequisites: [00_start]
      run_minutes: {cpu: 0.2, gpu: 0.1}
      study_minutes: 90
      introduces: [paths.book_root]
      exercises: []
      studies: []
  planned:
    10_products:
      part: "Part II"
      title: "Products"
      summary: "Multiplying."
      prerequisites: [02_sums]
  routes:
    all:
      title: "All of it"
      weeks: 2
      hours: 9
      chapters: [00_start, 02_sums, 10_products]
"""


def notebook(*cells: str, title: str) -> NotebookNode:
    """A notebook with the heading `title` and the code `cells`, not executed."""
    node = v4.new_notebook(cells=[v4.new_markdown_cell(f"# {title}")])
    node.cells += [v4.new_code_cell(source) for source in cells]
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    return node


@pytest.fixture
def small_book(tmp_path: Path) -> Path:
    """The root of a book with two chapters, 00_start and 02_sums, whose cells print numbers."""
    folder = tmp_path / "book"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "book.yml").write_text(BOOK, encoding="utf-8")
    first = notebook("print(2 + 2)", title="Start")
    second = notebook("total = sum(range(5))", "print(total)", title="02 · Sums")
    nbformat.write(first, folder / "notebooks" / "00_start.ipynb")
    nbformat.write(second, folder / "notebooks" / "02_sums.ipynb")
    return folder


@pytest.fixture
def write_cells(small_book: Path) -> Callable[..., Path]:
    """A function that writes 02_sums.ipynb with the given cells, and returns its path."""

    def write(*cells: str) -> Path:
        path = small_book / "notebooks" / "02_sums.ipynb"
        nbformat.write(notebook(*cells, title="02 · Sums"), path)
        return path

    return write


@pytest.fixture
def python() -> str:
    """The running Python."""
    return sys.executable
