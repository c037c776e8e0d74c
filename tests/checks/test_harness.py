"""The harness on made-up exercises: what it says, what it survives, what it leaves alone."""

import dataclasses
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlbook.checks import harness, progress
from rlbook.checks.harness import NOT_ATTEMPTED, RIGHT, WRONG, Exercise, Result, WrongAnswer, judge
from rlbook.tabular import episodes


@pytest.fixture(autouse=True)
def no_progress(clean_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.setenv("RLBOOK_STATE", "off")


def breaks(x: Any) -> Any:
    raise ZeroDivisionError("a mistake that fails")


def warns(x: Any) -> Any:
    return np.asarray(x) / np.zeros(len(x))


DOUBLE = Exercise(
    reference=lambda x: 2 * np.asarray(x),
    cases=lambda rng: [{"x": np.array([1.0, 2.0])}, {"x": rng.integers(3, 9, size=3) / 2}],
    wrong_answers=(
        WrongAnswer("a crash", breaks, "It never matches."),
        WrongAnswer("a division by zero", warns, "It never matches."),
        WrongAnswer("text", lambda x: "2", "It never matches."),
        WrongAnswer("squaring", lambda x: x**2, "Twice, not <times itself>."),
        WrongAnswer("the sum", lambda x: 2 * x.sum(), "Entry by entry."),
    ),
    hint="Add it to itself.",
)


def with_cases(*cases: dict[str, Any], reference: Any) -> Exercise:
    return Exercise(reference, lambda rng: list(cases), (), "")


def judged(answer: Any, exercise: Exercise = DOUBLE) -> Result:
    return judge("double", exercise, answer)


def right(answer: Any, exercise: Exercise = DOUBLE) -> bool:
    return judged(answer, exercise).status == RIGHT


# --- what counts as right --------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: 2 * x,
        lambda x: list(2 * x),
        lambda x: tuple(float(v) for v in 2 * x),
        lambda x: [Fraction(v) * 2 for v in x],
        lambda x: 2 * x + 1e-13,
        lambda x, scale=2: scale * x,
        lambda **case: 2 * case["x"],
    ],
    ids=["array", "list", "tuple", "fractions", "rounding", "default", "keywords"],
)
def test_the_container_does_not_matter(answer: Any) -> None:
    assert right(answer)


def test_scalars_of_every_kind_are_right() -> None:
    exercise = with_cases({"x": 3}, reference=lambda x: 6.0)
    for answer in (6, 6.0, np.float64(6), np.int32(6), np.array(6), Fraction(6)):
        assert right(lambda x, answer=answer: answer, exercise)
    result = judged(lambda x: [6.0], exercise)
    assert result.message.startswith("your answer has shape (1,); it should be a single number\n")


def test_truth_values_may_be_zeros_and_ones() -> None:
    exercise = with_cases({"x": np.arange(3)}, reference=lambda x: x > 1)
    assert right(lambda x: [0, 0, 1], exercise)
    result = judged(lambda x: x > 0, exercise)
    assert "expected: [False, False,  True]\ngot:      [False,  True,  True]" in result.message


def test_nan_and_infinity_are_compared() -> None:
    exercise = with_cases({"x": 1}, reference=lambda x: [np.nan, np.inf])
    assert right(lambda x: [np.nan, np.inf], exercise)
    assert not right(lambda x: [np.nan, -np.inf], exercise)
    assert not right(lambda x: [0.0, np.inf], exercise)


def test_tensors_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    given = torch.tensor([1.0, 2.0], dtype=torch.float64)
    exercise = with_cases({"x": given}, reference=lambda x: 2 * x)
    assert right(lambda x: (2 * x).requires_grad_(), exercise)
    assert "changed its argument x" in judged(lambda x: x.mul_(2), exercise).message


def test_tensors_of_every_kind_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    exercise = with_cases({"x": torch.tensor([1.5, 2.0])}, reference=lambda x: [x, 2 * x])
    assert right(lambda x: (x, (2 * x).requires_grad_()), exercise)
    assert right(lambda x: torch.stack([x, 2 * x]).to(torch.bfloat16), exercise)
    assert right(lambda x: torch.stack([x, 2 * x]).numpy(), exercise)
    assert not right(lambda x: (x, x), exercise)
    ragged = judged(lambda x: (x, x[:1]), exercise)
    assert "returned a tuple that is not an array of numbers" in ragged.message
    for value in (torch.tensor([True]), torch.tensor([1]), torch.ones(1).bfloat16()):
        exercise = with_cases({"x": value}, reference=lambda x: 1.0)
        assert right(lambda x: 1.0, exercise)
        assert "changed its argument x" in judged(lambda x: x.zero_().sum(), exercise).message


def test_an_exercise_may_allow_the_rounding_of_32_bits() -> None:
    def off(by: float) -> Any:
        return lambda x: 2 * np.asarray(x, float) * (1 + by)

    strict = dataclasses.replace(DOUBLE, wrong_answers=())
    loose = dataclasses.replace(strict, tolerance=harness.FLOAT32)
    assert not right(off(1e-7), strict) and right(off(1e-7), loose)
    assert not right(off(1e-4), loose)
    nearly = WrongAnswer("a mistake", off(1e-3), "Not quite.")
    loose = dataclasses.replace(loose, wrong_answers=(nearly,))
    assert judged(off(1.0001e-3), loose).message.startswith("this is a mistake. Not quite.")
    assert judged(off(1.1e-3), loose).message.startswith("wrong in 2 of 2 cases")


def test_an_answer_that_reuses_its_array_is_judged_by_what_it_returned() -> None:
    buffer = np.zeros(1)

    def answer(x: int) -> np.ndarray:
        buffer[:] = 2 * x
        return buffer

    assert right(answer, with_cases({"x": 1}, {"x": 2}, reference=lambda x: [2 * x]))


# --- what is said of wrong ones --------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: None, "your function returned None: did it forget to return?\nx = [1., 2.]"),
        (lambda x: (v for v in x), "your function returned a generator: use return, not yield"),
        (lambda x: "24", "your function returned a str that is not an array of numbers\n"),
        (lambda x: ["2", "4"], "your function returned a list that is not an array of numbers"),
        (lambda x: {"a": 1}, "your function returned a dict that is not"),
        (lambda x: [[1.0], [1.0, 2.0]], "numbers: are its rows equally long?"),
        (lambda x: [1.0, None], "your function returned a list that is not"),
        (lambda x: x + 1j, "your function returned a ndarray that is not"),
        (lambda x: np.ones((2, 2)), "your answer has shape (2, 2); it should have shape (2,)\n"),
        (lambda x: 3.0, "your answer is a single number; it should have shape (2,)\n"),
        (lambda x: 2 * x.sum(), "this is the sum. Entry by entry.\n"),
        (lambda x: x * x, "this is squaring. Twice, not <times itself>.\nx = [1., 2.]\n"),
        (lambda x: x + 1, "wrong in 2 of 2 cases; the first:\nx = [1., 2.]\nexpected: [2., 4.]\n"),
        (lambda y: 2 * y, "your function cannot be called with the arguments x: missing"),
        (lambda x, y: 2 * x, "it takes (x, y)"),
        (lambda x: x[7], "your function raised IndexError: index 7 is out of bounds"),
        (3, "give the function itself, not a int"),
    ],
)
def test_the_message_says_what_is_wrong(answer: Any, message: str) -> None:
    result = judged(answer)
    assert result.status == WRONG
    assert message in result.message


def test_the_line_that_failed_is_shown() -> None:
    def answer(x: np.ndarray) -> np.ndarray:
        y = x + 1
        return y / np.linalg.inv(np.ones((2, 2)))  # this one

    result = judged(answer)
    assert result.message.splitlines()[0] == "your function raised LinAlgError: Singular matrix"
    assert "in the line: return y / np.linalg.inv(np.ones((2, 2)))  # this one" in result.message


def test_a_difference_below_the_printed_digits_is_printed() -> None:
    result = judged(lambda x: 2 * x + 1e-7)
    assert "expected: [2., 4.]\ngot:      [2.0000001, 4.0000001]" in result.message


def test_a_mistake_is_named_only_if_it_fits_in_every_case() -> None:
    def answer(x: np.ndarray) -> np.ndarray:
        return x**2 if len(x) == 2 else x

    assert judged(answer).message.startswith("wrong in 2 of 2 cases")


def test_a_stub_is_not_attempted() -> None:
    def raises(x: Any) -> Any:
        raise NotImplementedError

    for stub in (lambda x: NotImplemented, raises):
        assert judged(stub).status == NOT_ATTEMPTED


def test_interrupting_is_possible() -> None:
    def answer(x: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(answer)


# --- arguments are left alone ----------------------------------------------------------------


def change(x: Any) -> Any:
    if isinstance(x, dict):
        x["a"][0] = 9
    elif isinstance(x, set):
        x.add(9)
    elif isinstance(x, list):
        x.append(9)
    else:
        x[-1] = 9
    return 1.0


@pytest.mark.parametrize(
    "value",
    [[1, 2], ["a", "b"], [], {1, 2}, {"a": [1, 2]}, np.array([1.0, np.nan]), np.array([1, 2])],
)
def test_a_change_to_an_argument_is_found(value: Any) -> None:
    exercise = with_cases({"x": value}, reference=lambda x: 1.0)
    assert right(lambda x: 1.0, exercise)
    assert "changed its argument x: work on a copy" in judged(change, exercise).message
    assert right(lambda x: 1.0, exercise), "the case itself was spoilt"


def test_objects_and_random_generators_may_be_arguments() -> None:
    class Counter:
        def __init__(self) -> None:
            self.n, self.rng = np.zeros(2), np.random.default_rng(1)

    case = {"rng": np.random.default_rng(3), "f": abs, "counter": Counter(), "name": "s"}
    exercise = with_cases(case, reference=lambda rng, f, counter, name: rng.random())
    assert right(lambda rng, f, counter, name: rng.random(), exercise)

    def answer(rng: Any, f: Any, counter: Any, name: Any) -> float:
        counter.n[0] += 1
        return rng.random()

    assert "changed its argument counter" in judged(answer, exercise).message
    assert "name = 's'" in judged(lambda **case: 0.0, exercise).message


# --- how it is shown -------------------------------------------------------------------------


def test_a_result_as_text_and_as_html() -> None:
    result = judge("<double>", DOUBLE, lambda x: x**2)
    assert repr(result).startswith("✗ <double>: this is squaring. Twice, not <times itself>.\nx =")
    shown = result._repr_html_()
    assert "&lt;double&gt;" in shown and "not &lt;times itself&gt;" in shown
    assert "<times" not in shown and "<double" not in shown
    assert "<pre" in shown and "expected: [2., 4.]" in shown
    exercise = with_cases({"x": "<i>"}, reference=lambda x: 1.0)
    details = judged(lambda x: 2.0, exercise)._repr_html_()
    assert "x = &#x27;&lt;i&gt;&#x27;" in details and "<i>" not in details
    assert "<pre" not in Result("a", RIGHT, "right")._repr_html_()
    assert "✓ a" in Result("a", RIGHT, "right")._repr_html_()


# --- check, hint, solution -------------------------------------------------------------------


def stub(rewards: Any, gamma: float) -> Any:
    return NotImplemented


def correct(rewards: Any, gamma: float) -> float:
    return sum(gamma**t * r for t, r in enumerate(rewards))


def test_check_remembers_the_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLBOOK_STATE", str(tmp_path / "state"))
    assert harness.check("discounted_return", stub).status == NOT_ATTEMPTED
    assert progress.read() == {"discounted_return": NOT_ATTEMPTED}
    assert harness.check("discounted_return", correct).status == RIGHT
    assert harness.check("discounted_return", stub).status == NOT_ATTEMPTED
    assert progress.read() == {"discounted_return": RIGHT}


def test_check_raises_while_nbgrader_grades(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLBOOK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match="not attempted yet"):
        harness.check("discounted_return", stub)
    with pytest.raises(AssertionError, match=r"this is the plain sum of the rewards\."):
        harness.check("discounted_return", lambda rewards, gamma: sum(rewards))
    capsys.readouterr()
    assert harness.check("discounted_return", correct) is None  # a value would be read as points
    assert capsys.readouterr() == ("✓ discounted_return: right\n", "")
    assert not (tmp_path / "state").exists()


def test_a_warning_is_no_failure_while_nbgrader_grades(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """nbgrader gives no points to a cell that wrote to stderr."""

    def writes(rewards: Any, gamma: float) -> float:
        print("overflow", file=sys.stderr)
        return correct(rewards, gamma)

    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    harness.check("discounted_return", writes)
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("overflow\n") and out.endswith("right\n")


def test_the_books_own_function_is_not_an_answer() -> None:
    """A chapter imports it before the exercise: the check may run without the reader's."""
    result = harness.check("discounted_return", episodes.discounted_return)
    assert result.status == NOT_ATTEMPTED
    assert "the book's own discounted_return" in result.message
    result = harness.check("discounted_return", result)
    assert result.message == "give the function itself, not a Result"


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'discounted_return'"):
        harness.check("discounted_retur", correct)
    with pytest.raises(ValueError, match=r"there are: .*advantage"):
        harness.hint("zzz")


def test_hint_and_solution_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    harness.hint("advantage")
    assert capsys.readouterr().out.startswith("Compare each action")
    harness.solution("advantage")
    assert capsys.readouterr().out.startswith("def advantage(Q, policy):")


LIMIT = 3


def _own(x: Any) -> Any:
    return np.minimum(x, LIMIT)


def limited(x: Any) -> Any:
    return Fraction(1) * _own(x)


def test_the_solution_carries_the_imports_it_uses_and_no_others() -> None:
    exercise = Exercise(limited, lambda rng: [], (), "", shown=None)
    lines = harness.solution_source(exercise).splitlines()
    assert lines[:5] == [
        "from fractions import Fraction",
        "from typing import Any",
        f"from {__name__} import _own",
        "",
        "",
    ]
    assert lines[5] == "def limited(x: Any) -> Any:"


def test_only_the_chapter_that_is_looked_for_is_loaded() -> None:
    code = """
import sys
from rlbook.checks.harness import chapters, check, find, hint, solution
loaded = lambda: sorted(n for n in ("gridworld", "planning") if f"rlbook.checks.{n}" in sys.modules)
assert loaded() == [], loaded()
assert chapters()["advantage"] == "gridworld"
assert loaded() == [], loaded()
find("greedy_actions")
assert loaded() == ["planning"], loaded()
assert not {"torch", "IPython", "matplotlib"} & set(sys.modules)
"""
    root = Path(harness.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
