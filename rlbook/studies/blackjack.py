"""Blackjack: how near Monte Carlo control comes to the exact solution."""

from collections.abc import Iterator

import numpy as np

from rlbook.tabular.blackjack import NumberedBlackjack, blackjack_mdp, decision_states
from rlbook.tabular.mdp import MDP
from rlbook.tabular.monte_carlo import (
    MonteCarloReport,
    epsilon_greedy,
    monte_carlo_control,
    monte_carlo_exploring_starts,
)
from rlbook.tabular.planning import optimal_actions, policy_evaluation, policy_iteration

SETTINGS = {
    "episodes": [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000],
    "rules": "Gymnasium's Blackjack-v1: natural=False, sab=True",
    "fixed_epsilon": 0.1,
    "decaying_epsilon": "(1 + episode / 1000) ** -0.5",
    "exploring_starts": "uniform over the 290 states in which a hand can be played",
    "shares_over": "the 200 states with a sum of 12..21",
}
SEEDS = 5


def run(seed: int) -> dict[str, dict[str, list[float]]]:
    """After each count of episodes: the share of the 200 states with an optimal greedy action,
    and how much the greedy policy loses per game against the optimum, computed exactly."""
    mdp = blackjack_mdp().to_sparse()
    exact = policy_iteration(mdp, gamma=1.0)
    best, states = optimal_actions(exact.Q), decision_states()
    shares: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for arm, reports in _arms(seed, mdp).items():
        shares[arm], losses[arm] = [], []
        for report in reports:
            if report.episode + 1 in SETTINGS["episodes"]:
                policy = epsilon_greedy(report.Q, 0.0)
                value = policy_evaluation(mdp, policy, gamma=1.0).V
                shares[arm].append(float((policy * best)[states].sum(axis=-1).mean()))
                losses[arm].append(float(mdp.start @ (exact.V - value)))
    return {"share of optimal actions": shares, "loss per game": losses}


def _arms(seed: int, mdp: MDP) -> dict[str, Iterator[MonteCarloReport]]:
    common = {"gamma": 1.0, "episodes": SETTINGS["episodes"][-1]}
    random = np.random.default_rng(seed).spawn(3)
    return {
        "exploring starts": monte_carlo_exploring_starts(
            NumberedBlackjack(), np.flatnonzero(~mdp.terminal), generator=random[0], **common
        ),
        "ε = 0.1": monte_carlo_control(
            NumberedBlackjack(), epsilon=SETTINGS["fixed_epsilon"], generator=random[1], **common
        ),
        "ε decaying": monte_carlo_control(
            NumberedBlackjack(),
            epsilon=lambda episode: (1.0 + episode / 1_000) ** -0.5,
            generator=random[2],
            **common,
        ),
    }
