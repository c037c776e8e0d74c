"""Each rule of hygiene rejects the notebook that breaks it, and a sound notebook passes."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from rlbook.book.hygiene import problems
from rlbook.book.manifest import Book, read_book

PNG = {"image/png": "aGk="}
Breaker = Callable[[NotebookNode], None]


@pytest.fixture
def book(small_book: Path) -> Book:
    return read_book(small_book / "book.yml")


def sound() -> NotebookNode:
    """A notebook that keeps every rule."""
    figure = new_output("display_data", data=PNG, metadata={"image/png": {"alt": "A curve."}})
    printed = new_output("stream", name="stdout", text="10\n")
    notebook = nbformat.v4.new_notebook(
        cells=[
            new_markdown_cell("# 02 · Sums\n\nBack to chapter 00; on to chapters 2 and 10."),
            new_code_cell("print(10)", execution_count=1, outputs=[printed]),
            new_markdown_cell("See [the start](00_start.ipynb#top) and https://x.org/tmp/a."),
            new_code_cell("plot()", execution_count=2, outputs=[figure]),
        ]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


def found_in(notebook: NotebookNode, small_book: Path, book: Book, name: str = "02_sums") -> str:
    path = small_book / "notebooks" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return "\n".join(problems(path, book))


def test_a_sound_notebook_passes(small_book: Path, book: Book) -> None:
    assert found_in(sound(), small_book, book) == ""


def clear_outputs(notebook: NotebookNode) -> None:
    for cell in (notebook.cells[1], notebook.cells[3]):
        cell.outputs, cell.execution_count = [], None


def only_outputs(notebook: NotebookNode) -> None:
    for cell in (notebook.cells[1], notebook.cells[3]):
        cell.outputs = []


def append(notebook: NotebookNode, source: str) -> None:
    notebook.cells[0].source += source


BROKEN: dict[str, tuple[Breaker, str]] = {
    "cleared": (clear_outputs, "code cell 1 was not executed: `print(10)`"),
    "outputs cleared": (only_outputs, "no cell has an output"),
    "one output cleared": (
        lambda n: n.cells[1].update(outputs=[]),
        "cell [1]: it prints or shows something, but its output was cleared",
    ),
    "counts": (
        lambda n: n.cells[3].update(execution_count=5),
        "execution counts are not 1..2 in order",
    ),
    "empty cell": (
        lambda n: n.cells.append(new_code_cell("", execution_count=3)),
        "code cell 3 is empty",
    ),
    "kernel": (
        lambda n: n.metadata["kernelspec"].update(name="conda-env"),
        "kernelspec is 'conda-env', not 'python3'",
    ),
    "error": (
        lambda n: n.cells[1].outputs.append(new_output("error", ename="E", evalue="no")),
        "cell [1]: raised E: no",
    ),
    "stderr": (
        lambda n: n.cells[1].outputs.append(new_output("stream", name="stderr", text="oh\n")),
        "cell [1]: wrote to stderr: oh",
    ),
    "path printed": (
        lambda n: n.cells[1].outputs[0].update(text="in /home/ann/x\n"),
        "cell [1]: prints a path of this machine: /home/ann/x",
    ),
    "path in code": (
        lambda n: n.cells[1].update(source="open('/tmp/x')"),
        "cell [1]: a path of one machine: /tmp/x",
    ),
    "path in text": (lambda n: append(n, "\nIn /home/ann/x."), "text: a path of one machine"),
    "timing": (
        lambda n: n.cells[1].metadata.update(execution={"iopub.status.idle": "2020"}),
        "cell [1]: timing metadata 'execution'",
    ),
    "widget state": (lambda n: n.metadata.update(widgets={}), "widget state is saved"),
    "widget view": (
        lambda n: n.cells[1].outputs.append(
            new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})
        ),
        "cell [1]: a widget's view is saved",
    ),
    "size": (lambda n: append(n, "x" * 1_500_001), "bytes, more than 1,500,000"),
    "long cell": (
        lambda n: n.cells[1].update(source="x = 1\n" * 26),
        "cell [1]: 26 lines, more than 25",
    ),
    "long line": (
        lambda n: n.cells[1].update(source="#" * 79),
        "cell [1]: a line of 79 columns, more than 78",
    ),
    "no alt text": (
        lambda n: n.cells[3].outputs[0].update(metadata={}),
        'cell [2]: a figure without alt text: metadata {"image/png": {"alt": "..."}}',
    ),
    "empty alt text": (
        lambda n: n.cells[3].outputs[0].update(metadata={"image/png": {"alt": " "}}),
        "cell [2]: a figure without alt text",
    ),
    "not validated": (
        lambda n: n.cells[1].metadata.update(tags=["nbval-skip"]),
        "cell [1]: the tag 'nbval-skip' keeps the cell from being validated",
    ),
    "comment": (
        lambda n: n.cells[1].update(source="# NBVAL_IGNORE_OUTPUT\n1"),
        "cell [1]: an NBVAL comment",
    ),
    "unknown chapter": (
        lambda n: append(n, "\nSee chapters 02 and 31."),
        "text: `chapter 31` is not in book.yml",
    ),
    "dead link": (
        lambda n: append(n, "\nSee [it](03_x.ipynb)."),
        "text: a link to 03_x.ipynb, which does not exist",
    ),
    "no heading": (lambda n: n.cells.pop(0), "the first line is not a heading `# ... Sums`"),
    "another heading": (
        lambda n: n.cells[0].update(source="# Products"),
        "the first line is not a heading `# ... Sums`",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_rejects_what_breaks_it(small_book: Path, book: Book, rule: str) -> None:
    breaker, message = BROKEN[rule]
    notebook = sound()
    breaker(notebook)
    assert message in found_in(notebook, small_book, book)


def test_a_notebook_that_is_not_listed(small_book: Path, book: Book) -> None:
    assert "not listed in book.yml" in found_in(sound(), small_book, book, "03_extra")
