"""Chapters graded by nbgrader, with the configuration and the commands of TEACHING.md.

The page is read, and what it tells a teacher to type is what runs here.
"""

import copy
import html
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from rlbook.book.manifest import read_book
from rlbook.checks.harness import find, solution_source

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
EXAMPLE = "02_gridworld"  # the chapter that the page hands out
BOOK = read_book(ROOT / "book.yml")
GRADED = [chapter for chapter in BOOK.written if chapter.exercises]
STUB = "    return NotImplemented  # <- your code"

needs_nbgrader = pytest.mark.skipif(
    importlib.util.find_spec("nbgrader") is None,
    reason="nbgrader is not installed: pip install -c constraints.txt -e '.[teach]'",
)

# A mistake that the harness has a name for, as a student would type it, one for each chapter.
MISTAKES = {
    "02_gridworld": (
        "bellman_optimality",
        "the max outside the sum",
        "def bellman_optimality(P, R, Q, gamma):\n    return R + gamma * (P @ Q).max(axis=2)\n",
    ),
    "03_planning": (
        "greedy_actions",
        "the first argmax only",
        "def greedy_actions(Q):\n    return np.eye(Q.shape[1], dtype=bool)[Q.argmax(axis=1)]\n",
    ),
}
# A right answer that prints, and warns on stderr, in the check's own cell.
NOISY = """
import warnings
_quiet_{name} = {name}
def {name}(*args, **kwargs):
    print("called")
    warnings.warn("nothing is wrong")
    return _quiet_{name}(*args, **kwargs)
"""


# --- the page --------------------------------------------------------------------------------


def block(language: str, first: str) -> str:
    """The code block of the page whose first line starts with `first`."""
    found = re.findall(rf"^```{language}\n({re.escape(first)}.*?)^```$", PAGE, re.M | re.S)
    assert len(found) == 1, f"{len(found)} blocks of {language} in TEACHING.md start with {first}"
    return found[0]


MAKE_COURSE = block("sh", "mkdir course")
HAND_OUT = block("sh", "mkdir -p source/")
GRADE = block("sh", "nbgrader autograde 02_gridworld\n")
REGRADE = block("sh", "nbgrader autograde 02_gridworld --student")
PRINT_POINTS = block("python", "from nbgrader.api")
OWN_EXERCISE = block("python", "def regret"), block("python", "assert regret")


def test_the_page_names_commands_routes_and_extras_that_exist() -> None:
    listing = block("sh", "rlbook list")
    assert re.findall(r"--route (\S+)", listing) == [route.name for route in BOOK.routes]
    for line in listing.splitlines():
        command = [sys.executable, "-m", "rlbook.cli", *line.split()[1:]]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0 and "00_welcome" in result.stdout, result.stderr
    install = block("sh", ". .venv/bin/activate")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.search(r"'\.\[([\w,]+)\]'", install).group(1).split(",")
    assert set(extras) <= set(project["optional-dependencies"]) and "teach" in extras
    assert f"submitted/STUDENT/{EXAMPLE}/{EXAMPLE}.ipynb" in PAGE


def test_the_page_shows_an_exercise_as_it_is() -> None:
    cells = [c.source for c in chapter_notebook(EXAMPLE).cells]
    assert block("python", "# Exercise").rstrip("\n") in cells
    assert block("python", "check(").rstrip("\n") in cells


@pytest.mark.parametrize("chapter", GRADED, ids=lambda chapter: chapter.slug)
def test_an_exercise_gives_as_many_points_as_it_has_dots(chapter) -> None:
    cells = chapter_notebook(chapter.slug).cells
    points = {c.source: c.metadata.nbgrader.points for c in cells if is_check(c)}
    dots = {
        f'check("{name}", {name})': header.count("●")
        for header, name in re.findall(
            r"^# (Exercise .+)\ndef (\w+)", "\n".join(c.source for c in cells), re.M
        )
    }
    assert points == dots and len(points) == len(chapter.exercises)


# --- a course --------------------------------------------------------------------------------


class Course:
    """The folder that the page makes, with an environment of its own."""

    def __init__(self, folder: Path) -> None:
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "RLBOOK", "MPL"))
        }
        names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        self.environment = kept | {name: str(folder / name) for name in names}
        bin_folder = Path(sys.executable).parent  # as `. .venv/bin/activate` puts it first
        self.environment |= {
            "PATH": f"{bin_folder}{os.pathsep}{kept['PATH']}",
            "RLBOOK_HOME": str(ROOT),
            "RLBOOK_STATE": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self.folder = folder
        self.type(MAKE_COURSE)
        self.folder = folder / "course"

    def type(self, commands: str, program: str = "bash") -> tuple[str, str]:
        """What the commands print and log; fails where one of them fails."""
        arguments = ["bash", "-euo", "pipefail"] if program == "bash" else [sys.executable, "-"]
        result = subprocess.run(
            arguments,
            input=commands,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout, result.stderr

    def released(self, assignment: str, name: str | None = None) -> NotebookNode:
        path = self.folder / "release" / assignment / f"{name or assignment}.ipynb"
        return nbformat.read(path, as_version=4)

    def hand_in(self, student: str, assignment: str, notebook: NotebookNode) -> None:
        folder = self.folder / "submitted" / student / assignment
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / f"{assignment}.ipynb")

    def points(self, assignment: str) -> dict[str, dict[str, tuple[float, float]]]:
        """For each student, the points and the maximum of every check cell, by the page's code."""
        printed, _ = self.type(PRINT_POINTS.replace(EXAMPLE, assignment), program="python")
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for line in printed.splitlines():
            student, cell, score, maximum = line.split()
            found.setdefault(student, {})[cell] = (float(score), float(maximum))
        return found

    def feedback(self, student: str, assignment: str) -> str:
        """The words of the page that a student gets."""
        path = self.folder / "feedback" / student / assignment / f"{assignment}.html"
        text = re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))
        return " ".join(html.unescape(text).split())


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return Course(tmp_path)


def chapter_notebook(slug: str) -> NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{slug}.ipynb", as_version=4)


def alone(notebook: NotebookNode) -> NotebookNode:
    """The exercises of a chapter without the chapter, which saves most of the running time."""
    exercises = copy.deepcopy(notebook)
    imports = nbformat.v4.new_code_cell("import numpy as np", id="imports")
    exercises.cells = [imports, *(c for c in exercises.cells if "nbgrader" in c.metadata)]
    return exercises


def is_check(cell: NotebookNode) -> bool:
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def is_answer(cell: NotebookNode) -> bool:
    return cell.metadata.get("nbgrader", {}).get("solution", False)


def cells_of(notebook: NotebookNode, exercise: str) -> tuple[NotebookNode, NotebookNode]:
    """The cell to answer in, and the check of it."""
    found = [c for c in notebook.cells if is_check(c) and f'"{exercise}"' in c.source]
    before = notebook.cells[notebook.cells.index(found[0]) - 1]
    assert len(found) == 1 and is_answer(before)
    return before, found[0]


def answer(notebook: NotebookNode, exercise: str, function: str) -> None:
    """Write `function` in place of the stub; what stands above the stub stays."""
    cell, _ = cells_of(notebook, exercise)
    assert cell.source.endswith(STUB)
    cell.source = cell.source[: cell.source.index(f"def {exercise}(")] + function


def reference(exercise: str) -> str:
    return solution_source(find(exercise))


@needs_nbgrader
@pytest.mark.slow  # 02, the whole chapter: 30 s; 03, its exercises alone: 15 s
@pytest.mark.timeout(900)  # a dozen programs one after another: long on a busy machine
@pytest.mark.parametrize("slug", MISTAKES)
def test_a_chapter_is_handed_out_and_graded(course: Course, slug: str) -> None:
    hand_out = HAND_OUT.replace(EXAMPLE, slug)
    if slug != EXAMPLE:
        source = course.folder.parent / "notebooks" / f"{slug}.ipynb"
        source.parent.mkdir()
        nbformat.write(alone(chapter_notebook(slug)), source)
        hand_out = hand_out.replace("$RLBOOK_HOME", str(source.parents[1]))
    course.type(hand_out)
    exercises = BOOK.chapter(slug).exercises
    mistaken, mistake, wrong_function = MISTAKES[slug]
    blank = course.released(slug)
    assert not any(cell.get("outputs") for cell in blank.cells)
    best = {
        c.metadata.nbgrader.grade_id: c.metadata.nbgrader.points
        for c in filter(is_check, blank.cells)
    }

    solved = copy.deepcopy(blank)
    for exercise in exercises:
        answer(solved, exercise, reference(exercise))
    wrong = copy.deepcopy(blank)
    for exercise in exercises:
        answer(wrong, exercise, wrong_function if exercise == mistaken else reference(exercise))
    careless, no_function, no_check, other_check, noisy = careless_notebook(blank, exercises)
    # The whole chapter runs for two of the four: with right answers, and with the accidents.
    students = {"blank": alone(blank), "bo": solved, "ann": alone(wrong), "cy": careless}
    for student, notebook in students.items():
        course.hand_in(student, slug, notebook)

    _, log = course.type(GRADE.replace(EXAMPLE, slug))
    assert "cannot be converted to" not in log  # a right answer is not taken for points
    points = course.points(slug)
    full = {cell: (maximum, maximum) for cell, maximum in best.items()}
    none = {cell: (0, maximum) for cell, maximum in best.items()}
    failed = check_id(blank, mistaken)
    assert points["blank"] == none
    assert points["bo"] == full
    assert points["ann"] == full | {failed: none[failed]}
    assert points["cy"] == none | {noisy: full[noisy]}
    assert len({no_function, no_check, other_check, noisy}) == 4
    grades = (course.folder / "grades.csv").read_text(encoding="utf-8")
    assert re.search(
        rf"^{slug},.*,bo,.*,{sum(best.values()):.1f},{sum(best.values()):.1f}$", grades, re.M
    )

    hint = next(w.hint for w in find(mistaken).wrong_answers if w.name == mistake)
    message = f"✗ {mistaken}: this is {mistake}. {hint}"
    assert message in course.feedback("ann", slug)
    assert "✗" not in course.feedback("bo", slug)
    for exercise in exercises:
        assert f"✓ {exercise}: right" in course.feedback("bo", slug)
        assert f"… {exercise}: not attempted yet" in course.feedback("blank", slug)

    assert not (course.folder.parent / "state").exists()  # grading is nobody's progress
    if slug == EXAMPLE:
        course.hand_in("ann", slug, alone(solved))
        course.type(REGRADE)
        assert course.points(slug) == points | {"ann": full}
        assert message not in course.feedback("ann", slug)


def check_id(notebook: NotebookNode, exercise: str) -> str:
    return cells_of(notebook, exercise)[1].metadata.nbgrader.grade_id


def careless_notebook(blank: NotebookNode, exercises: tuple[str, ...]) -> tuple:
    """A notebook with four accidents, and the check cells that they happened to.

    A function deleted (the chapter may have imported the package's own under its name), a
    check deleted, a check replaced by one that passes and weighs more, and, the one that costs
    nothing, a right answer that prints and warns.
    """
    notebook = copy.deepcopy(blank)
    no_function, no_check, other_check, noisy = exercises
    cell, _ = cells_of(notebook, no_function)
    cell.source = cell.source[: cell.source.index(f"def {no_function}(")]
    answer(notebook, noisy, reference(noisy) + NOISY.format(name=noisy))
    _, check = cells_of(notebook, other_check)
    check.source = 'print("right")'
    check.metadata.nbgrader.points = 100
    _, check = cells_of(notebook, no_check)
    notebook.cells.remove(check)
    return notebook, *(check_id(blank, exercise) for exercise in exercises)


@needs_nbgrader
@pytest.mark.slow  # 10 s
def test_no_chapter_is_released_with_a_solution(course: Course) -> None:
    """Chapters whose stubs were solved are released as those whose stubs were not."""
    for assignment in ("as_it_is", "solved"):
        folder = course.folder / "source" / assignment
        folder.mkdir(parents=True)
        for chapter in GRADED:
            notebook = alone(chapter_notebook(chapter.slug))
            if assignment == "solved":
                for exercise in chapter.exercises:
                    cell, _ = cells_of(notebook, exercise)
                    inside = f"{reference(exercise)}\nreturn {exercise}"
                    cell.source, changed = re.subn(
                        r"^    return NotImplemented .*$",
                        lambda _, text=inside: textwrap.indent(text, "    "),
                        cell.source,
                        flags=re.M,
                    )
                    assert changed == 1
            nbformat.write(notebook, folder / f"{chapter.slug}.ipynb")
        course.type(f"nbgrader generate_assignment {assignment}")
    for chapter in GRADED:
        released = course.released("as_it_is", chapter.slug)
        solved = course.released("solved", chapter.slug)
        assert [c.source for c in solved.cells] == [c.source for c in released.cells]
        for exercise in chapter.exercises:
            cell, check = cells_of(released, exercise)
            assert cell.source.endswith(STUB) and "SOLUTION" not in cell.source
            assert check.metadata.editable is check.metadata.deletable is False


@needs_nbgrader
@pytest.mark.slow  # 15 s
def test_an_exercise_of_the_teachers_own(course: Course) -> None:
    """The page's example, with a hidden test, and an endless loop that the timeout ends."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source.rstrip("\n")) for source in OWN_EXERCISE]
    )
    notebook.metadata["kernelspec"] = chapter_notebook(EXAMPLE).metadata.kernelspec
    marks = {"schema_version": 3, "task": False}
    write, check = notebook.cells
    write.metadata["nbgrader"] = marks | {
        "grade": False, "grade_id": "write-regret", "locked": False, "solution": True
    }  # fmt: skip
    check.metadata["nbgrader"] = marks | {
        "grade": True, "grade_id": "check-regret", "locked": True, "solution": False, "points": 3
    }  # fmt: skip
    (course.folder / "source" / "own").mkdir(parents=True)
    nbformat.write(notebook, course.folder / "source" / "own" / "own.ipynb")
    course.type("nbgrader generate_assignment own")
    blank = course.released("own")
    assert blank.cells[0].source.endswith(STUB) and "negative" not in blank.cells[1].source

    bodies = {
        "right": "return max(values) - values[action]",
        "nearly": "return max(*values, 0.0) - values[action]",  # only the hidden test sees it
        "endless": "while True: pass",
    }
    for student, body in bodies.items():
        notebook = copy.deepcopy(blank)
        notebook.cells[0].source = blank.cells[0].source.replace(STUB.strip(), body)
        course.hand_in(student, "own", notebook)
    course.type("nbgrader autograde own --Execute.timeout=3 && nbgrader generate_feedback own")
    expected = {"right": 3, "nearly": 0, "endless": 0}
    assert course.points("own") == {s: {"check-regret": (p, 3)} for s, p in expected.items()}
    assert "values may be negative" in course.feedback("nearly", "own")


@needs_nbgrader
def test_the_configuration_gives_a_cell_five_minutes(course: Course) -> None:
    code = (
        "from traitlets.config.loader import PyFileConfigLoader\n"
        "from nbgrader.preprocessors import Execute\n"
        "config = PyFileConfigLoader('nbgrader_config.py').load_config()\n"
        "print(Execute(config=config).timeout, Execute().timeout)"
    )
    assert course.type(code, program="python")[0].split() == ["300", "30"]
