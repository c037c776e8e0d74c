"""Chapter 14's exercises: first cases by hand, references against the package and autograd."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rlbook.checks.harness import RIGHT, SEED, WRONG, judge
from rlbook.checks.reward_model import EXERCISES
from rlbook.functional.preference_losses import bradley_terry_loss, k_wise_loss

BY_HAND = {
    "pair_loss": [np.log(4 / 3)],
    "ranking_loss": [(2 * np.log(3 / 2) + np.log(5 / 4)) / 3],  # odds 2, 4, 2
    "last_scores": [3.0, 10.0],
    "calibration_error": 1 / 6,  # (2·0.2 + 0.1) / 3
    "fit_reward": [0.5],  # σ(0) · 1
}


def cases(name: str) -> list[dict]:
    return EXERCISES[name].cases(np.random.default_rng(SEED))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_first_case_has_the_answer_worked_out_by_hand(name: str) -> None:
    found = np.asarray(EXERCISES[name].reference(**cases(name)[0]), float)
    np.testing.assert_allclose(found, np.asarray(BY_HAND[name], float), atol=1e-12)


def by_bradley_terry(chosen, rejected, margin):
    chosen, rejected, margin = map(torch.tensor, (chosen, rejected, margin))
    return bradley_terry_loss(chosen, rejected, margin=margin)


def by_k_wise(scores, counts):
    mask = torch.arange(scores.shape[1]) < torch.tensor(counts)[:, None]
    return k_wise_loss(torch.where(mask, torch.tensor(scores), torch.nan), mask)


def by_search(values, response_mask):
    """The last True of each row, looked for from the right."""
    T = response_mask.shape[1]
    found = []
    for row, mask in zip(values, response_mask, strict=True):
        found.append(next(row[-T:][t] for t in range(T - 1, -1, -1) if mask[t]))
    return found


def by_digitize(p, happened, bins):
    """Every pair of a bin is |mean p - share| away: the mean over pairs weighs by counts."""
    place = np.digitize(p, np.arange(1, bins) / bins)
    total = np.zeros(len(p))
    for b in range(bins):
        inside = place == b
        if inside.any():
            total[inside] = abs((p[inside] - happened[inside]).sum()) / inside.sum()
    return total.mean()


def by_autograd(features, pairs, steps, rate):
    features, pairs = torch.tensor(features), torch.tensor(pairs)
    w = torch.zeros(features.shape[1], dtype=features.dtype, requires_grad=True)
    optimiser = torch.optim.SGD([w], lr=rate)
    for _ in range(steps):
        scores = features @ w
        optimiser.zero_grad()
        bradley_terry_loss(scores[pairs[:, 0]], scores[pairs[:, 1]]).mean().backward()
        optimiser.step()
    return w.detach()


BY_PACKAGE = {
    "pair_loss": by_bradley_terry,
    "ranking_loss": by_k_wise,
    "last_scores": by_search,
    "calibration_error": by_digitize,
    "fit_reward": by_autograd,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_agrees_with_the_package(name: str) -> None:
    for case in cases(name):
        found = np.asarray(EXERCISES[name].reference(**case), float)
        other = np.asarray(BY_PACKAGE[name](**case), float)
        np.testing.assert_allclose(found, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", EXERCISES)
def test_other_ways_of_writing_it_are_right(name: str) -> None:
    def answer(**case):
        return np.asarray(BY_PACKAGE[name](**case), float)

    assert judge(name, EXERCISES[name], answer).status == RIGHT


def by_linspace(p, happened, bins):
    """With the edges as ``np.linspace`` computes them: 0.30000000000000004 among ten bins."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    error = 0.0
    for b in np.unique(place):
        error += abs((p[place == b] - happened[place == b]).sum())
    return error / len(p)


def by_upper_edges(p, happened, bins):
    """A mistake: each bin holds its upper edge."""
    place = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    parts = [abs((p[place == b] - happened[place == b]).sum()) for b in range(bins)]
    return sum(parts) / len(p)


def test_edges_by_another_computation_are_right_and_the_other_edge_is_wrong() -> None:
    exercise = EXERCISES["calibration_error"]
    assert judge("calibration_error", exercise, by_linspace).status == RIGHT
    assert judge("calibration_error", exercise, by_upper_edges).status == WRONG


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("pair_loss", lambda chosen, rejected, margin: np.maximum(0, margin - chosen + rejected)),
        ("ranking_loss", lambda scores, counts: scores[:, -1] - scores[:, 0]),
        ("last_scores", lambda values, response_mask: values.max(axis=1)),
        ("calibration_error", lambda p, happened, bins: ((p > 0.5) == happened).mean()),
        ("fit_reward", lambda features, pairs, steps, rate: 0 * features[0]),
    ],
)
def test_other_mistakes_are_not_accepted(name: str, answer: Callable) -> None:
    assert judge(name, EXERCISES[name], answer).status == WRONG
