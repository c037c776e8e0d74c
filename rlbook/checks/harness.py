"""How an answer is checked: try it on seeded random cases, and name the mistake if it has one.

An exercise is data: a reference, a maker of cases, and the wrong answers that readers give,
each with a hint at it. One module per chapter holds them in a dictionary ``EXERCISES``, whose
keys are written out: they are read from the source, and a chapter is imported only when one
of its exercises is looked for.
"""

import ast
import copy
import difflib
import functools
import html
import importlib
import inspect
import os
import pkgutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rlbook.checks import progress

SEED = 20_240_229  # every reader meets the same cases
FLOAT64, FLOAT32 = 1e-9, 1e-5  # tolerances: rounding in another order of sums stays below
NOT_ATTEMPTED, WRONG, RIGHT = "not attempted", "wrong", "right"
MARKS = {NOT_ATTEMPTED: "…", WRONG: "✗", RIGHT: "✓"}
COLOURS = {NOT_ATTEMPTED: "#56B4E9", WRONG: "#D55E00", RIGHT: "#009E73"}


@dataclass(frozen=True)
class WrongAnswer:
    """A mistake with a name: what it is called, a function that makes it, and a hint at it."""

    name: str
    function: Callable[..., Any]
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One function to write.

    Attributes:
        reference: the right answer; its source, or that of ``shown``, is the solution.
        cases: makes a list of keyword-argument dictionaries from a random generator, the
            smallest first: the first one that fails is shown.
        wrong_answers: at least three mistakes worth recognising.
        hint: a first nudge, for readers who ask.
        shown: the package's own function where that is the solution to look at.
        tolerance: how far an answer may be off, relative to each number or as such; ``FLOAT32``
            where the cases hold 32-bit tensors and the answer is not exact in them.
    """

    reference: Callable[..., Any]
    cases: Callable[[np.random.Generator], list[dict[str, Any]]]
    wrong_answers: tuple[WrongAnswer, ...]
    hint: str
    shown: Callable[..., Any] | None = None
    tolerance: float = FLOAT64


@dataclass(frozen=True)
class Result:
    """What a check found; the notebook shows it as a coloured box, other places as text."""

    exercise: str
    status: str
    message: str

    def __repr__(self) -> str:
        return f"{MARKS[self.status]} {self.exercise}: {self.message}"

    def _repr_html_(self) -> str:
        colour = COLOURS[self.status]
        title, _, details = self.message.partition("\n")
        body = f"<pre style='margin:4px 0 0 0'>{html.escape(details)}</pre>" if details else ""
        return (
            f"<div style='border-left:6px solid {colour};padding:6px 12px;margin:4px 0'>"
            f"<b>{MARKS[self.status]} {html.escape(self.exercise)}</b>: "
            f"{html.escape(title)}{body}</div>"
        )


def check(name: str, answer: Any) -> Result | None:
    """Check a reader's function against the exercise called ``name``.

    The cases come from a fixed seed; the answer gets copies, so it cannot spoil them.

    While nbgrader grades, a right answer is printed and nothing is returned, since nbgrader
    reads a returned value as points; and warnings go to stdout, since it takes anything on
    stderr for a failure.

    Raises:
        ValueError: no exercise has this name (with the nearest one).
        AssertionError: the answer is not right, while nbgrader is grading.
    """
    exercise = find(name)
    grading = bool(os.environ.get("NBGRADER_EXECUTION"))
    with redirect_stderr(sys.stdout) if grading else nullcontext():
        result = _not_the_readers_own(name, answer) or judge(name, exercise, answer)
    if not grading:
        progress.record(name, result.status)
        return result
    if result.status != RIGHT:
        raise AssertionError(repr(result))
    print(result)
    return None


def hint(name: str) -> None:
    """Print the hint of an exercise."""
    print(find(name).hint)


def solution(name: str) -> None:
    """Show the source of a right answer."""
    from IPython.display import Code, display

    display(Code(solution_source(find(name)), language="python"))


# --- judging ---------------------------------------------------------------------------------


def judge(name: str, exercise: Exercise, answer: Any) -> Result:
    """Run the answer on every case and describe the first thing that is wrong with it."""
    if not callable(answer):
        return Result(name, WRONG, f"give the function itself, not a {type(answer).__name__}")
    tried = []
    for case in exercise.cases(np.random.default_rng(SEED)):
        expected = exercise.reference(**copy.deepcopy(case))
        if problem := _problem_of_signature(answer, case):
            return Result(name, WRONG, problem)
        given = copy.deepcopy(case)
        try:
            got = answer(**given)
        except NotImplementedError:
            got = NotImplemented
        except Exception as error:
            problem = f"your function raised {type(error).__name__}: {error}"
            return Result(name, WRONG, f"{problem}\n{_line_of(error, answer)}{_inputs(case)}")
        if got is NotImplemented:
            return Result(name, NOT_ATTEMPTED, "not attempted yet")
        problem = _mutation(case, given) or _problem_of_kind(got)
        if problem:
            return Result(name, WRONG, f"{problem}\n{_inputs(case)}")
        tried.append((case, expected, _numbers(got)))
    wrong = [line for line in tried if not _equal(line[1], line[2], exercise.tolerance)]
    if not wrong:
        return Result(name, RIGHT, "right")
    case, expected, got = wrong[0]
    if named := _recognise(exercise, tried):
        title = f"this is {named.name}. {named.hint}"
    else:
        title = _problem_of_shape(expected, got)
        title = title or f"wrong in {len(wrong)} of {len(tried)} cases; the first:"
    return Result(name, WRONG, f"{title}\n{_inputs(case)}\n{_contrast(expected, got)}")


def _not_the_readers_own(name: str, answer: Any) -> Result | None:
    """What to say to the package's own function, which a chapter may have imported before."""
    home = getattr(answer, "__module__", None) or ""
    if not callable(answer) or home.partition(".")[0] != "rlbook":
        return None
    own = getattr(answer, "__name__", name)
    message = f"not attempted yet: this is the book's own {own}; run the cell with yours first"
    return Result(name, NOT_ATTEMPTED, message)


def _recognise(exercise: Exercise, tried: list[tuple]) -> WrongAnswer | None:
    """The named mistake that gives exactly the reader's answers in every case."""
    for wrong in exercise.wrong_answers:
        try:
            with np.errstate(all="ignore"):
                same = all(
                    _equal(wrong.function(**copy.deepcopy(case)), got, exercise.tolerance)
                    for case, _, got in tried
                )
        except Exception:  # a mistake that fails on these cases is not the reader's
            continue
        if same:
            return wrong
    return None


def _problem_of_signature(answer: Callable[..., Any], case: dict[str, Any]) -> str:
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions have none
        return ""
    try:
        signature.bind(**case)
    except TypeError as error:
        return (
            f"your function cannot be called with the arguments {', '.join(case)}: {error}\n"
            f"it takes {signature}"
        )
    return ""


def _problem_of_kind(got: Any) -> str:
    if got is None:
        return "your function returned None: did it forget to return?"
    if inspect.isgenerator(got):
        return "your function returned a generator: use return, not yield"
    if _numbers(got) is None:
        rows = ": are its rows equally long?" if isinstance(got, list | tuple) else ""
        return (
            f"your function returned a {type(got).__name__} that is not an array of numbers{rows}"
        )
    return ""


def _problem_of_shape(expected: Any, got: np.ndarray) -> str:
    right = _numbers(expected).shape
    if got.shape == right:
        return ""
    should = f"have shape {right}" if right else "be a single number"
    does = f"has shape {got.shape}" if got.shape else "is a single number"
    return f"your answer {does}; it should {should}"


def _mutation(case: dict[str, Any], given: dict[str, Any]) -> str:
    for name, value in case.items():
        if not _unchanged(value, given[name]):
            return f"your function changed its argument {name}: work on a copy"
    return ""


def _unchanged(before: Any, after: Any) -> bool:
    """Whether two values are the same all through; what cannot be compared counts as same.

    A random generator is there to be used, so its state may change.
    """
    if type(before) is not type(after):
        return False
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(
            _unchanged(before[key], after[key]) for key in before
        )
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if isinstance(before, set | frozenset | str | bytes):
        return before == after
    old, new = _numbers(before), _numbers(after)
    if old is not None and new is not None:
        return old.dtype == new.dtype and np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    if (old is None) != (new is None):
        return False
    return _unchanged(vars(before), vars(after)) if hasattr(before, "__dict__") else True


def _numbers(value: Any) -> np.ndarray | None:
    """A copy as an array of numbers or truth values; None where it is something else."""
    try:
        array = np.asarray(_without_tensors(value))
    except Exception:  # rows of different lengths, or an object that refuses
        return None
    if array.dtype.kind in "biuf":
        return array.copy()
    exact = array.dtype.kind == "O" and all(isinstance(item, Real) for item in array.flat)
    return array.astype(float) if exact else None


def _without_tensors(value: Any) -> Any:
    """The same with every tensor, also those in lists and tuples, as an array; needs no torch."""
    if isinstance(value, list | tuple):
        return [_without_tensors(item) for item in value]
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    if tensor.dtype.itemsize == 2 and tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    return tensor.numpy()


def _equal(a: Any, b: Any, tolerance: float = FLOAT64) -> bool:
    a, b = _numbers(a), _numbers(b)
    if a is None or b is None or a.shape != b.shape:
        return False
    a, b = a.astype(float), b.astype(float)
    return np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


# --- describing ------------------------------------------------------------------------------


def _inputs(case: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {_text(value, len(name) + 3)}" for name, value in case.items())


def _contrast(expected: Any, got: np.ndarray) -> str:
    """Both values, with as many digits as it takes to see that they differ."""
    texts = [_text(value, indent=10) for value in (expected, got)]
    if texts[0] == texts[1]:
        texts = [_text(value, indent=10, precision=17) for value in (expected, got)]
    return f"expected: {texts[0]}\ngot:      {texts[1]}"


def _text(value: Any, indent: int = 0, precision: int = 4) -> str:
    array = _numbers(value)
    if array is None:
        return repr(value)
    return np.array2string(
        array,
        precision=precision,
        suppress_small=precision == 4,
        separator=", ",
        prefix=" " * indent,
        max_line_width=100,
        threshold=300,
    )


def _line_of(error: Exception, answer: Callable[..., Any]) -> str:
    """The last line of the reader's own that the error came through, where it is known."""
    code = getattr(answer, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if code and frame.filename == code.co_filename]
    return f"in the line: {lines[-1]}\n" if lines and lines[-1] else ""


# --- finding exercises and their solutions ---------------------------------------------------


def find(name: str) -> Exercise:
    """The exercise called ``name``; only the module of its chapter is imported."""
    homes = chapters()
    if name not in homes:
        close = difflib.get_close_matches(name, homes, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(homes)}"
        raise ValueError(f"no exercise is called {name!r}: {remedy}")
    return importlib.import_module(f"rlbook.checks.{homes[name]}").EXERCISES[name]


@functools.cache  # to parse them all takes a tenth of a second, and every check asks
def chapters() -> Mapping[str, str]:
    """For every exercise of the book, the module that holds it, without importing any."""
    folder = Path(__file__).parent
    found = {}
    for module in pkgutil.iter_modules([str(folder)]):
        source = (folder / f"{module.name}.py").read_text(encoding="utf-8")
        found.update(dict.fromkeys(_names_in(source), module.name))
    return MappingProxyType(found)


def _names_in(source: str) -> Iterator[str]:
    """The keys of the dictionary EXERCISES in the source of a module."""
    for node in ast.parse(source).body:
        if "EXERCISES" in _names_defined_by(node) and isinstance(node.value, ast.Dict):
            yield from (key.value for key in node.value.keys)


def solution_source(exercise: Exercise) -> str:
    """The text that ``solution`` shows: a function with the imports that it needs."""
    function = inspect.unwrap(exercise.shown or exercise.reference)
    source = textwrap.dedent(inspect.getsource(function))
    imports = _imports_of(function, source)
    return "\n".join([*imports, "", "", source]) if imports else source


def _imports_of(function: Callable[..., Any], source: str) -> list[str]:
    """Import statements for the names that a function takes from its module."""
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    statements, own = [], []
    for node in ast.parse(inspect.getsource(sys.modules[function.__module__])).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            future = getattr(node, "module", "") == "__future__"
            node.names = [
                alias
                for alias in node.names
                if future or (alias.asname or alias.name.partition(".")[0]) in used
            ]
            if node.names:
                statements.append(ast.unparse(node))
        else:
            own += [n for n in _names_defined_by(node) if n in used and n != function.__name__]
    if own:
        statements.append(f"from {function.__module__} import {', '.join(dict.fromkeys(own))}")
    return statements


def _names_defined_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name for target in targets for name in ast.walk(target)]
        return [name.id for name in names if isinstance(name, ast.Name)]
    return []
