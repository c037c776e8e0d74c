"""The validation itself is tested: it passes what is right, and it can fail.

On a small notebook made here, and on a copy of the shortest chapter.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from rlbook.book.execute import CLEAN_ENVIRONMENT, code_cells, execute_notebook
from rlbook.book.hygiene import problems
from rlbook.book.manifest import read_book

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: path.stat().st_size)


def validate(path: Path, environment: dict[str, str]) -> str:
    """Run nbval on one notebook as `make test` does, and return its last line."""
    command = [
        *(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--color=no", "-q"),
        *("--nbval-sanitize-with", str(ROOT / "tests" / "nbval.cfg"), "--nbval-cell-timeout=300"),
        *("-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), str(path)),
    ]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.stdout, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment that `make test` validates in."""
    import os

    for name, value in CLEAN_ENVIRONMENT.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("RLBOOK_STATE", str(tmp_path / "state"))
    return dict(os.environ)


def change_one_number(path: Path) -> str:
    """Change the last digit of the first number that a compared cell printed; return the cell."""
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            continue
        for output in cell.outputs:
            digit = re.search(r"\d(?!.*\d)", output.get("text", ""), re.DOTALL)
            if digit:
                new = str((int(digit.group()) + 1) % 10)
                output.text = output.text[: digit.start()] + new + output.text[digit.end() :]
                nbformat.write(notebook, path)
                return cell.source
    raise AssertionError(f"{path.stem} prints no number that validation compares")


def clear_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


@pytest.mark.slow
def test_a_small_notebook(
    write_cells: Callable[..., Path], small_book: Path, environment: dict[str, str]
) -> None:
    path = write_cells("total = sum(range(5))", "print(total)", "print(object())", "total + 0.25")
    execute_notebook(path)
    book = read_book(small_book / "book.yml")
    assert problems(path, book) == []
    assert validate(path, environment).startswith("4 passed")

    assert change_one_number(path) == "print(total)"
    assert validate(path, environment).startswith("1 failed, 3 passed")

    clear_outputs(path)  # nbval would let this through
    assert any("was not executed" in problem for problem in problems(path, book))


@pytest.mark.slow
@pytest.mark.skipif(not NOTEBOOKS, reason="there are no notebooks yet")
def test_the_shortest_chapter(tmp_path: Path, environment: dict[str, str]) -> None:
    """With one number changed, exactly that cell fails: so all the others are compared and pass."""
    copy = tmp_path / "notebooks" / NOTEBOOKS[0].name
    shutil.copytree(ROOT / "notebooks", copy.parent)
    change_one_number(copy)
    count = len(code_cells(nbformat.read(copy, as_version=4)))
    environment["RLBOOK_HOME"] = str(ROOT)
    assert validate(copy, environment).startswith(f"1 failed, {count - 1} passed")

    clear_outputs(copy)
    found = problems(copy, read_book(ROOT / "book.yml"))
    assert sum("was not executed" in problem for problem in found) == count
