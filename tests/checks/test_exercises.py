"""Every exercise of the book: its reference passes, and every mistake is called by its name."""

import copy
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlbook.checks.harness import (
    NOT_ATTEMPTED,
    RIGHT,
    SEED,
    WRONG,
    Exercise,
    WrongAnswer,
    _equal,
    _numbers,
    _unchanged,
    chapters,
    find,
    judge,
    solution_source,
)

EXERCISES = {name: find(name) for name in chapters()}
MISTAKES = [
    (name, wrong) for name, exercise in EXERCISES.items() for wrong in exercise.wrong_answers
]

every_exercise = pytest.mark.parametrize("name", EXERCISES)
every_mistake = pytest.mark.parametrize(
    ("name", "wrong"), MISTAKES, ids=[f"{name}: {wrong.name}" for name, wrong in MISTAKES]
)


def cases_of(exercise: Exercise) -> list[dict[str, Any]]:
    return exercise.cases(np.random.default_rng(SEED))


def test_the_chapters_hold_what_their_sources_say() -> None:
    names = []
    for module in sorted(set(chapters().values())):
        held = importlib.import_module(f"rlbook.checks.{module}").EXERCISES
        names += held
        assert [name for name, home in chapters().items() if home == module] == list(held)
    assert len(names) == len(set(names)) == len(EXERCISES) >= 8


@every_exercise
def test_the_reference_passes(name: str) -> None:
    result = judge(name, EXERCISES[name], EXERCISES[name].reference)
    assert (result.status, result.message) == (RIGHT, "right")


@every_exercise
def test_the_solution_that_is_shown_passes_when_executed_alone(name: str) -> None:
    exercise = EXERCISES[name]
    text = solution_source(exercise)
    assert "rlbook.checks" not in text
    namespace: dict[str, Any] = {}
    exec(compile(text, "<solution>", "exec"), namespace)
    assert judge(name, exercise, namespace[name]).status == RIGHT


@every_exercise
def test_an_exercise_is_complete(name: str) -> None:
    exercise = EXERCISES[name]
    assert 6 <= len(cases_of(exercise)) <= 11
    assert len(exercise.wrong_answers) >= 3
    assert len({wrong.name for wrong in exercise.wrong_answers}) == len(exercise.wrong_answers)
    for text in (exercise.hint, *(wrong.hint for wrong in exercise.wrong_answers)):
        assert len(text) > 30 and text[-1] in ".?"
        assert "np." not in text, "a hint points at the mistake and gives no code"


@every_exercise
def test_the_cases_are_the_same_each_time(name: str) -> None:
    first, second = cases_of(EXERCISES[name]), cases_of(EXERCISES[name])
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert _unchanged(a, b)


@every_exercise
def test_a_stub_is_not_attempted(name: str) -> None:
    assert judge(name, EXERCISES[name], lambda **_: NotImplemented).status == NOT_ATTEMPTED


@every_exercise
def test_none_is_rejected(name: str) -> None:
    result = judge(name, EXERCISES[name], lambda **_: None)
    assert result.status == WRONG and "returned None" in result.message


@every_exercise
def test_a_wrong_shape_is_rejected(name: str) -> None:
    def answer(**case: Any) -> np.ndarray:
        return np.asarray(EXERCISES[name].reference(**case))[None, None]

    result = judge(name, EXERCISES[name], answer)
    assert result.status == WRONG and "your answer has shape (1, 1" in result.message


@every_exercise
def test_an_exception_is_reported(name: str) -> None:
    def answer(**case: Any) -> None:
        raise KeyError("somewhere")

    result = judge(name, EXERCISES[name], answer)
    assert result.status == WRONG and "raised KeyError: 'somewhere'" in result.message


def spoil_last(array: Any) -> None:
    """Change the last entry of an array or a tensor, in place."""
    flat = array.reshape(-1) if hasattr(array, "detach") else array.flat
    flat[-1] = not flat[-1] if _numbers(array).dtype == bool else flat[-1] + 1


@every_exercise
def test_changing_any_argument_is_rejected_even_with_the_right_answer(name: str) -> None:
    exercise = EXERCISES[name]
    arrays = [key for key, value in cases_of(exercise)[0].items() if hasattr(value, "ndim")]
    assert arrays
    for key in arrays:

        def answer(*, spoilt: str = key, **case: Any) -> Any:
            right = copy.deepcopy(exercise.reference(**case))
            spoil_last(case[spoilt])
            return right

        result = judge(name, exercise, answer)
        assert result.status == WRONG
        assert f"changed its argument {key}: work on a copy" in result.message


@every_exercise
def test_a_small_error_in_one_entry_is_seen(name: str) -> None:
    def answer(**case: Any) -> np.ndarray:
        result = _numbers(EXERCISES[name].reference(**case)).astype(float)
        result.flat[0] += max(1e-5, 10 * EXERCISES[name].tolerance * (1 + abs(result.flat[0])))
        return result

    result = judge(name, EXERCISES[name], answer)
    assert result.status == WRONG and result.message.startswith("wrong in ")


@every_mistake
def test_a_mistake_is_called_by_its_name(name: str, wrong: WrongAnswer) -> None:
    """Its own name: so it also differs from every mistake listed before it."""
    result = judge(name, EXERCISES[name], wrong.function)
    assert result.status == WRONG
    assert result.message.startswith(f"this is {wrong.name}. {wrong.hint}\n")
    assert "expected: " in result.message and "got: " in result.message


@every_exercise
def test_an_answer_is_judged_the_same_each_time(name: str) -> None:
    wrong = EXERCISES[name].wrong_answers[-1].function
    assert judge(name, EXERCISES[name], wrong) == judge(name, EXERCISES[name], wrong)


@every_mistake
def test_a_mistake_changes_none_of_its_inputs(name: str, wrong: WrongAnswer) -> None:
    for case in cases_of(EXERCISES[name]):
        before = copy.deepcopy(case)
        wrong.function(**case)
        assert _unchanged(before, case)


@every_exercise
def test_mistakes_differ_from_each_other_and_from_the_reference(name: str) -> None:
    exercise = EXERCISES[name]
    answers: dict[str, Callable[..., Any]] = {"the reference": exercise.reference}
    answers |= {wrong.name: wrong.function for wrong in exercise.wrong_answers}
    given = {a: [answer(**case) for case in cases_of(exercise)] for a, answer in answers.items()}
    for (a, first), (b, second) in itertools.combinations(given.items(), 2):
        pairs = zip(first, second, strict=True)
        same = [_equal(one, other, exercise.tolerance) for one, other in pairs]
        assert same.count(False) >= 2, f"{a} and {b} differ in fewer than two cases"


HAND_CASES = {
    "discounted_return": 3.0,
    "bellman_expectation": [8.0, 8.5],
    "bellman_optimality": [[2.0, 4.0, 4.5], [5.0, 3.0, 3.5]],
    "advantage": [[-1.0, 1.0, 3.0], [-6.0, 0.0, -3.0]],
    "evaluate_exactly": [1.0, 2.0],
    "greedy_actions": [[False, True, True], [True, True, False]],
    "contraction_bound": 4.0,
    "finite_horizon_values": [[0.0, 0.0], [1.0, 3.0], [3.0, 6.0]],
}


@pytest.mark.parametrize("name", HAND_CASES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    """The arithmetic stands beside each case, in the chapter's module."""
    exercise = EXERCISES[name]
    np.testing.assert_allclose(
        exercise.reference(**cases_of(exercise)[0]), HAND_CASES[name], atol=1e-12
    )


# The same numbers from the package itself, which shares no line with the references.


def test_the_references_agree_with_the_package() -> None:
    from rlbook.tabular import planning
    from rlbook.tabular.mdp import MDP

    S, A, gamma = 4, 3, 0.9
    case = cases_of(EXERCISES["bellman_optimality"])[3]
    P, R = case["P"], case["R"]
    assert R.shape == (S, A)
    mdp = MDP(P, R, np.zeros(S, dtype=bool), np.full(S, 1.0 / S))
    rng = np.random.default_rng(5)
    policy = rng.dirichlet(np.ones(A), size=S)
    solved = planning.policy_evaluation(mdp, policy, gamma=gamma)

    def reference(name: str, **inputs: Any) -> Any:
        return EXERCISES[name].reference(**inputs)

    V = reference("bellman_expectation", P=P, R=R, policy=policy, V=solved.V, gamma=gamma)
    np.testing.assert_allclose(V, solved.V, atol=1e-9)
    P_pi, R_pi = mdp.under(policy)
    V = reference("evaluate_exactly", P_pi=P_pi, R_pi=R_pi, gamma=gamma)
    np.testing.assert_allclose(V, solved.V, atol=1e-9)
    above = reference("advantage", Q=solved.Q, policy=policy)
    np.testing.assert_allclose(above, solved.Q - solved.V[:, None], atol=1e-9)

    best = planning.value_iteration(mdp, gamma=gamma, tol=1e-11)
    Q = reference("bellman_optimality", P=P, R=R, Q=best.Q, gamma=gamma)
    np.testing.assert_allclose(Q, best.Q, atol=1e-9)
    assert (reference("greedy_actions", Q=best.Q) == best.optimal_actions).all()
    V_old, V_new = np.zeros(S), R.max(axis=1)
    bound = reference("contraction_bound", V_old=V_old, V_new=V_new, gamma=gamma)
    assert np.abs(best.V - V_new).max() <= bound + 1e-9
    levels = reference("finite_horizon_values", P=P, R=R, horizon=5)
    np.testing.assert_allclose(levels, planning.finite_horizon(mdp, horizon=5).V, atol=1e-12)
