"""What must hold for a chapter's file before it is committed.

nbval compares a notebook with a fresh run, and passes where nothing is there to compare, so a
notebook with cleared outputs would pass. These rules close that door and a few more.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from rlbook.book.execute import IGNORE, WIDGET, code_cells, machine_paths, text_of
from rlbook.book.manifest import Book, BookError

MAX_BYTES = 1_500_000
MAX_LINES = 25
MAX_COLUMNS = 78
FORBIDDEN_TAGS = {"nbval-skip", "nbval-raises-exception", "raises-exception"}

NUMBERS = r"(A?\d{1,2}(?:(?:\s*,\s*|\s+and\s+|\s+or\s+|\s+to\s+|\s*[-–]\s*)A?\d{1,2})*)"
MENTION = re.compile(rf"\b[Cc]hapters?\s+{NUMBERS}\b")
LINK = re.compile(r"\]\(([\w./-]+\.ipynb)(?:#[^)]*)?\)")


def problems(path: Path, book: Book) -> list[str]:
    """Return what is wrong with the notebook at `path`, one line each; [] if nothing is."""
    if path.stat().st_size > MAX_BYTES:
        return [f"{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}: use fewer figures"]
    notebook = nbformat.read(path, as_version=4)
    found = [*_about_the_file(notebook, path, book), *_about_execution(notebook)]
    for number, cell in enumerate(code_cells(notebook), start=1):
        found += [f"cell [{number}]: {problem}" for problem in _about_code(cell)]
        for output in cell.outputs:
            found += [f"cell [{number}]: {problem}" for problem in _about_output(output)]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found += _about_text(cell.source, path.parent, book)
    return found


def _about_the_file(notebook: NotebookNode, path: Path, book: Book) -> Iterator[str]:
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"kernelspec is {kernel!r}, not 'python3'"
    if "widgets" in notebook.metadata:
        yield "widget state is saved in the metadata: run it with `rlbook run`"
    titles = {chapter.slug: chapter.title for chapter in book.written}
    if path.stem not in titles:
        yield f"not listed in {book.path.name}"
        return
    first = notebook.cells[0] if notebook.cells else None
    heading = first.source.splitlines()[:1] if first and first.cell_type == "markdown" else []
    if not heading or not heading[0].startswith("# ") or titles[path.stem] not in heading[0]:
        yield f"the first line is not a heading `# ... {titles[path.stem]}`, as in book.yml"


def _about_execution(notebook: NotebookNode) -> Iterator[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for i, cell in enumerate(cells, start=1):
        line = (cell.source.strip().splitlines() or ["(empty)"])[0]
        if not cell.source.strip():
            yield f"code cell {i} is empty"
        if cell.execution_count is None:
            yield f"code cell {i} was not executed: `{line}`"
    counts = [cell.execution_count for cell in cells]
    if None not in counts and counts != list(range(1, len(cells) + 1)):
        yield f"execution counts are not 1..{len(cells)} in order: run it with `rlbook run`"
    if cells and not any(cell.outputs for cell in cells):
        yield "no cell has an output: they were cleared; run it with `rlbook run`"


def _about_code(cell: NotebookNode) -> Iterator[str]:
    lines = cell.source.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines, more than {MAX_LINES}: split it"
    for line in lines:
        if len(line) > MAX_COLUMNS:
            yield f"a line of {len(line)} columns, more than {MAX_COLUMNS}: `{line.strip()}`"
    for path in machine_paths(cell.source):
        yield f"a path of one machine: {path}"
    for key in ("execution", "ExecuteTime"):
        if key in cell.metadata:
            yield f"timing metadata {key!r}: run it with `rlbook run`"
    if not cell.outputs and _says_something(cell.source) and IGNORE not in _tags(cell):
        yield "it prints or shows something, but its output was cleared: run it with `rlbook run`"
    for tag in FORBIDDEN_TAGS.intersection(_tags(cell)):
        yield f"the tag {tag!r} keeps the cell from being validated"
    if "# NBVAL_" in cell.source:
        yield "an NBVAL comment: use the tag nbval-ignore-output"


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _says_something(source: str) -> bool:
    """True where a statement of the cell itself, not of a function in it, prints or shows."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic command
        return False
    calls = [s.value.func for s in statements if _is_call(s)]
    return any(isinstance(f, ast.Name) and f.id in ("print", "show_figure") for f in calls)


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


def _about_output(output: NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"raised {output.ename}: {output.evalue}"
        return
    if output.output_type == "stream" and output.name == "stderr":
        yield f"wrote to stderr: {output.text.strip().splitlines()[0]}"
    for path in machine_paths(text_of(output)):
        yield f"prints a path of this machine: {path}"
    data = output.get("data", {})
    if WIDGET in data:
        yield "a widget's view is saved: run it with `rlbook run`"
    for mime in data:
        if mime.startswith("image/") and not _alt(output, mime):
            yield f'a figure without alt text: metadata {{"{mime}": {{"alt": "..."}}}}'


def _alt(output: NotebookNode, mime: str) -> str:
    """The alternative text of an image, or "" where there is none."""
    metadata = output.metadata.get(mime, {})
    return metadata.get("alt", "").strip() if isinstance(metadata, dict) else ""


def _about_text(text: str, folder: Path, book: Book) -> Iterator[str]:
    """Every chapter that is mentioned exists, or is in preparation; every link leads to a file."""
    for path in machine_paths(text):
        yield f"text: a path of one machine: {path}"
    for numbers in MENTION.findall(text):
        for number in re.findall(r"A?\d{1,2}", numbers):
            try:
                book.chapter(number)
            except BookError:
                yield f"text: `chapter {number}` is not in {book.path.name}"
    for target in LINK.findall(text):
        if not (folder / target).is_file():
            yield f"text: a link to {target}, which does not exist"
