"""REINFORCE on an enumerable language model: four ways to give the tokens their credit.

A game of words. Each token of a response earns a hidden score, drawn from N(0, 1) for every prefix
and token; the response's reward is their sum over √T, paid with the last token. The policy is a
``TabularLM`` that starts uniform. Each update draws a few responses and makes one step of plain
gradient ascent, with these weights on ∇ log π(y_t | y_<t):

    none     R                    the reward of the whole response
    mean     R - mean of the other responses' rewards
    value    R - V(y_<t)          V: the exact value of the prefix under the current policy
    credit   V(y_≤t) - V(y_<t)    what this token changed; V(y) of a whole response is R(y)

All four have the gradient of J as their expectation. `gain` is (J - J₀) / (J* - J₀), J by
enumeration, J₀ that of the uniform policy and J* the best response's reward; once for every
learning rate. `gradient variance` is exact: of one response's estimate under the uniform policy,
summed over the table, and divided by that of "none".

A seed draws a game and the responses; it is the same for all arms.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.lm.exact import (
    enumerated_logprobs,
    expected_reward,
    policy_gradient,
    prefix_values,
    sequence_logprobs,
)
from rlbook.lm.tabular_lm import TabularLM

SEEDS = 32
SETTINGS: dict[str, Any] = {
    "vocabulary": 3,
    "tokens": 6,
    "responses_per_update": 4,
    "learning_rates": [0.5, 2.0],
    "arms": ["none", "mean", "value", "credit"],
    "x": [30 * k for k in range(21)],
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """The gain of every arm at every rate, and the variance that each starts with."""
    torch.set_num_threads(1)
    model, rewards = game(seed)
    results: dict[str, dict[str, Any]] = {}
    for rate in SETTINGS["learning_rates"]:
        results[f"gain, rate {rate:g}"] = {
            arm: learn(model, rewards, arm, rate=rate, seed=seed) for arm in SETTINGS["arms"]
        }
    scatter = {arm: gradient_variance(model, rewards, arm) for arm in SETTINGS["arms"]}
    results["gradient variance"] = {arm: x / scatter["none"] for arm, x in scatter.items()}
    return results


def game(seed: int) -> tuple[TabularLM, Float[Tensor, " M"]]:
    """A uniform policy, and the reward of every response."""
    model = TabularLM([[0]], vocab_size=SETTINGS["vocabulary"], max_new_tokens=SETTINGS["tokens"])
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(model.table.shape, generator=generator, dtype=torch.float64)
    states, tokens, _ = model.space.paths(model.table.device)
    return model, scores[states, tokens].sum(dim=1) / SETTINGS["tokens"] ** 0.5


def learn(
    start: TabularLM, rewards: Float[Tensor, " M"], arm: str, *, rate: float, seed: int
) -> list[float]:
    """The gain after each number of updates in x."""
    model, first = start.like(), expected_reward(start, rewards).item()
    generator = torch.Generator().manual_seed(1_000 + seed)
    gains = []
    for update in range(SETTINGS["x"][-1] + 1):
        logprobs = enumerated_logprobs(model)
        chances = logprobs.detach().sum(dim=1).exp()
        if update in SETTINGS["x"]:
            J = float(chances @ rewards)
            gains.append((J - first) / (float(rewards.max()) - first))
        drawn = torch.multinomial(
            chances, SETTINGS["responses_per_update"], replacement=True, generator=generator
        )
        weights = token_weights(model, rewards, drawn, arm)
        mask: Bool[Tensor, "B T"] = torch.ones_like(weights, dtype=torch.bool)
        losses = reinforce_loss(logprobs[drawn], weights)
        loss = aggregate(losses, mask, "fixed-length", length=1)  # a sum over tokens, mean over B
        (gradient,) = torch.autograd.grad(loss, model.table)
        with torch.no_grad():
            model.table -= rate * gradient
    return gains


def token_weights(
    model: TabularLM, rewards: Float[Tensor, " M"], drawn: Int[Tensor, " B"], arm: str
) -> Float[Tensor, "B T"]:
    """What each token's ∇ log π is multiplied with, for the responses with these numbers."""
    states, tokens, _ = model.space.paths(model.table.device)
    states, tokens = states[drawn], tokens[drawn]
    R = rewards[drawn][:, None].expand(states.shape)
    if arm == "none":
        return R
    if arm == "mean":
        return R - (R.sum(dim=0) - R) / (len(drawn) - 1)
    with torch.no_grad():
        V, Q = prefix_values(model, rewards)
    return {"value": R - V[states], "credit": Q[states, tokens] - V[states]}[arm]


def gradient_variance(model: TabularLM, rewards: Float[Tensor, " M"], arm: str) -> float:
    """The total variance of one response's estimate, by enumeration.

    A response meets a state at most once, so its estimate has squared length Σ_t w_t² |score_t|²,
    and |score|² = 1 - 2 π(a) + Σ_v π(v)². The baseline of "mean" is its expectation, J.
    """
    with torch.no_grad():
        chances = sequence_logprobs(model).exp()
        states, tokens, _ = model.space.paths(model.table.device)
        if arm == "mean":
            weights = (rewards - chances @ rewards)[:, None].expand(states.shape)
        else:
            weights = token_weights(model, rewards, torch.arange(len(rewards)), arm)
        pi = torch.softmax(model.table, dim=-1)
        lengths = 1 - 2 * pi[states, tokens] + pi.square().sum(dim=-1)[states]
        second_moment = chances @ (weights.square() * lengths).sum(dim=1)
        return float(second_moment - policy_gradient(model, rewards).square().sum())
