"""Running a chapter: what is written, what is refused, and what an error says."""

import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from rlbook.book.execute import ChapterError, clean, execute_notebook, machine_paths

WriteCells = Callable[..., Path]


def outputs_of(path: Path) -> list[str]:
    """The text that each code cell of a notebook printed."""
    notebook = nbformat.read(path, as_version=4)
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_outputs_are_written_and_progress_is_reported(write_cells: WriteCells) -> None:
    path = write_cells("total = sum(range(5))", "print(total)")
    seen: list[tuple[int, int]] = []
    seconds = execute_notebook(path, on_cell=lambda done, total: seen.append((done, total)))
    assert outputs_of(path) == ["", "10\n"]
    assert seen == [(1, 2), (2, 2)]
    assert 0 < seconds < 60
    assert sorted(p.name for p in path.parent.iterdir()) == ["00_start.ipynb", "02_sums.ipynb"]


def test_two_runs_write_the_same_bytes(write_cells: WriteCells) -> None:
    path = write_cells("import time; time.sleep(0.01)", "print(1)")
    execute_notebook(path)
    first = path.read_bytes()
    execute_notebook(path)
    assert path.read_bytes() == first
    assert b"timestamp" not in first and b"iopub" not in first


def test_the_kernel_is_this_python_in_the_folder_and_environment_of_validation(
    write_cells: WriteCells, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    monkeypatch.setenv("RLBOOK_PRESET", "gpu")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("RLBOOK_STATE", "/nowhere/at/all")
    path = write_cells(
        "import os, sys",
        "print(os.path.basename(os.getcwd()))",
        f"print(sys.executable == {python!r})",
        "print(os.environ['RLBOOK_PRESET'], os.environ['OMP_NUM_THREADS'])",
        "print(os.environ['RLBOOK_STATE'] != '/nowhere/at/all')",
        "print('inline' in os.environ['MPLBACKEND'])",
    )
    execute_notebook(path)
    assert [text.strip() for text in outputs_of(path)] == [
        "",
        "notebooks",
        "True",
        "cpu 1",
        "True",
        "True",
    ]


def test_a_larger_preset_keeps_the_environment_and_output_spares_the_book(
    write_cells: WriteCells, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    path = write_cells(
        "import os", "print(os.environ['RLBOOK_PRESET'], os.environ['OMP_NUM_THREADS'])"
    )
    before = path.read_bytes()
    execute_notebook(path, preset="small", output=tmp_path / "copy.ipynb")
    assert outputs_of(tmp_path / "copy.ipynb")[1] == "small 3\n"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("\nvalue = 1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; print(os.getcwd())", "prints a path of this machine: "),
        ("import time; time.sleep(30)", "took longer than the time limit of a cell"),
        ("import os; os._exit(1)", "the kernel died (out of memory?)"),
        ("from tqdm.auto import tqdm; list(tqdm([1]))", "shows a widget: tag it nbval-ignore"),
    ],
    ids=["error", "path", "timeout", "death", "widget"],
)
def test_a_failing_chapter_is_named_and_left_as_it_was(
    write_cells: WriteCells, cell: str, error: str
) -> None:
    path = write_cells("x = 1", cell, "print(x)")
    before = path.read_bytes()
    with pytest.raises(ChapterError) as raised:
        execute_notebook(path, cell_timeout=3)
    failure = raised.value
    assert (failure.chapter, failure.cell) == ("02_sums", 2)
    assert failure.first_line == cell.strip().splitlines()[0]
    assert failure.error.startswith(error)
    assert str(failure) == f"02_sums, cell [2] `{failure.first_line}`: {failure.error}"
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


def test_bars_are_silent_and_tagged_widgets_leave_no_trace(write_cells: WriteCells) -> None:
    path = write_cells(
        "from tqdm import tqdm\nprint(sum(tqdm([1, 2])))",
        "import ipywidgets\nipywidgets.IntSlider()",
    )
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["nbval-ignore-output"]
    nbformat.write(notebook, path)
    execute_notebook(path)
    assert outputs_of(path) == ["3\n", ""]
    assert nbformat.read(path, as_version=4).cells[-1].outputs == []


def test_clean_removes_what_differs_between_machines() -> None:
    cell = nbformat.v4.new_code_cell(
        "slider",
        metadata={"execution": {"iopub.status.idle": "2020"}, "ExecuteTime": {}, "tags": ["keep"]},
        outputs=[
            nbformat.v4.new_output(
                "display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "a"}}
            ),
            nbformat.v4.new_output(
                "display_data",
                data={"image/png": "aGk="},
                metadata={"image/png": {"alt": "a curve"}},
            ),
        ],
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata = nbformat.from_dict(
        {"widgets": {"state": {}}, "language_info": {"name": "python", "version": "3.11.7"}}
    )
    clean(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["language_info"] == {"name": "python"}
    assert "widgets" not in notebook.metadata
    assert notebook.cells[0].metadata == {"tags": ["keep"]}
    assert [list(output.data) for output in notebook.cells[0].outputs] == [["image/png"]]
    assert notebook.cells[0].outputs[0].metadata == {"image/png": {"alt": "a curve"}}


@pytest.mark.parametrize(
    "text", ["/home/ann/x.py", "in /tmp/a1b2, at", "`/root/book`", "C:\\Users\\ann", os.getcwd()]
)
def test_a_path_of_one_machine_is_found(text: str) -> None:
    assert len(machine_paths(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/page",
        "data/runs/a.json",
        "a/b/c",
        "1/2",
        "(x)/tmp/3",
        "</tmp>",
        "../home/x",
        "V(s) / n",
    ],
)
def test_what_is_no_path_of_one_machine_passes(text: str) -> None:
    assert machine_paths(text) == []
