"""The exercises of the chapters, of book.yml and of rlbook.checks are the same."""

import re
from pathlib import Path

import nbformat
import pytest

from rlbook.book.execute import code_cells
from rlbook.book.manifest import read_book
from rlbook.checks.harness import find

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = read_book(ROOT / "book.yml").written


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda chapter: chapter.slug)
def test_exercises_agree(chapter):
    cells = code_cells(nbformat.read(ROOT / chapter.notebook, as_version=4))
    checks = [re.match(r'check\("(\w+)", (\w+)\)$', cell.source) for cell in cells]
    assert [found.group(1) for found in checks if found] == list(chapter.exercises)
    for found, cell, before in zip(checks[1:], cells[1:], cells[:-1], strict=True):
        if not found:
            continue
        name = found.group(1)
        find(name)  # raises where there is no such exercise
        assert found.group(2) == name
        assert f"def {name}(" in before.source and "### BEGIN SOLUTION" in before.source
        assert before.metadata["nbgrader"]["solution"] and not before.metadata["nbgrader"]["locked"]
        assert cell.metadata["nbgrader"]["grade"] and cell.metadata["nbgrader"]["locked"]
        assert "not attempted yet" in cell.outputs[0].data["text/plain"]  # the stub runs as it is


def test_grade_ids_are_unique():
    notebooks = [nbformat.read(ROOT / chapter.notebook, as_version=4) for chapter in WRITTEN]
    graded = [
        c.metadata["nbgrader"] for n in notebooks for c in n.cells if "nbgrader" in c.metadata
    ]
    ids = [metadata["grade_id"] for metadata in graded]
    assert len(ids) == len(set(ids)) == 2 * sum(len(chapter.exercises) for chapter in WRITTEN)
