"""REINFORCE on CartPole with four baselines: returns, and how far the gradient scatters.

Each update uses 16 whole episodes. `return` is the mean return of an update's episodes, `advantage
spread` the standard deviation of its advantages (before whitening), `entropy` that of the policy in
nats, all against environment steps (linear between updates).

`gradient variance` compares the baselines on *one* policy, that of the arm "value" at three
moments. 64 fresh episodes are played with it, and each baseline makes of every episode one
estimate g = Σ_t (G_t - b) ∇ log π(a_t|s_t). Its total variance, the sum over the parameters, is
divided by that without a baseline. The values are those that the arm has learned so far.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlbook.control.collect import Rollout, episodes, make_envs
from rlbook.control.networks import ActorCritic, sizes
from rlbook.control.reinforce import ReinforceConfig, advantage, reinforce
from rlbook.functional.masked import blank
from rlbook.functional.policy_losses import action_logprobs, reinforce_loss
from rlbook.report import StepReport

SEEDS = 8
SETTINGS: dict[str, Any] = {
    "environment": "CartPole-v1",
    "episodes_per_update": 16,
    "gamma": 0.99,
    "learning_rate": 3e-3,
    "x": [2_000 * k for k in range(1, 31)],
    "arms": {
        "none": {"baseline": "none"},
        "mean": {"baseline": "mean"},
        "value": {"baseline": "value"},
        "none, whitened": {"baseline": "none", "whiten": True},
    },
    "moments": [5_000, 20_000, 60_000],
    "moment_episodes": 64,
}
CURVES = {"advantage spread": "advantage_std", "entropy": "entropy"}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Train with every baseline; the arm "value" stops at its moments to be measured."""
    torch.set_num_threads(1)
    measures: dict[str, dict[str, Any]] = {
        name: {} for name in ("return", *CURVES, "gradient variance")
    }
    for arm in SETTINGS["arms"]:
        network, training = train(arm, seed)
        reports, moments = [], list(SETTINGS["moments"])
        for report in training:
            reports.append(report)
            if arm == "value" and moments and report.samples >= moments[0]:
                moments.pop(0)
                for name, ratio in variance_ratios(network, seed).items():
                    measures["gradient variance"].setdefault(name, []).append(ratio)
        measures["return"][arm] = against_steps(reports, [np.mean(r.returns) for r in reports])
        for measure, metric in CURVES.items():
            measures[measure][arm] = against_steps(reports, [r[metric] for r in reports])
    return measures


def train(arm: str, seed: int) -> tuple[ActorCritic, Iterator[StepReport]]:
    """A network, and the loop that trains it."""
    envs = make_envs(SETTINGS["environment"], SETTINGS["episodes_per_update"])
    network = ActorCritic(*sizes(envs), seed=seed)
    return network, reinforce(envs, network, config(arm), seed=seed)


def config(arm: str) -> ReinforceConfig:
    """The settings of an arm."""
    return ReinforceConfig(
        total_steps=SETTINGS["x"][-1],
        gamma=SETTINGS["gamma"],
        learning_rate=SETTINGS["learning_rate"],
        **SETTINGS["arms"][arm],
    )


def against_steps(reports: list[StepReport], heights: list[float]) -> Float[np.ndarray, " x"]:
    """One number per update, read off at the positions x by linear interpolation."""
    return np.interp(SETTINGS["x"], [report.samples for report in reports], heights)


# --- the scatter of the gradient -------------------------------------------------------------


def variance_ratios(network: ActorCritic, seed: int) -> dict[str, float]:
    """Total variance of one episode's gradient, over that without a baseline."""
    envs = make_envs(SETTINGS["environment"], SETTINGS["moment_episodes"])
    generator = torch.Generator().manual_seed(1_000 + seed)
    batch = episodes(envs, network.policy, generator=generator)
    variance = {
        arm: total_variance(
            episode_gradients(network, batch, advantage(network, batch, config(arm))[0])
        )
        for arm in ("none", "mean", "value")
    }
    return {arm: found / variance["none"] for arm, found in variance.items()}


def episode_gradients(
    network: ActorCritic, batch: Rollout, advantages: Float[Tensor, "B T"]
) -> Float[Tensor, "B D"]:
    """Row b: Σ_t A_t ∇ log π(a_t|s_t) of episode b, in all parameters of the policy."""
    parameters = list(network.actor.parameters())
    rows = []
    for b in range(len(batch.mask)):
        mask: Bool[Tensor, " T"] = batch.mask[b]
        logits = network.policy(batch.observations[b, mask])
        logprobs = action_logprobs(logits, batch.actions[b, mask])
        weights = blank(advantages[b], mask)[mask]
        ascent = -reinforce_loss(logprobs[None], weights[None]).sum()
        gradients = torch.autograd.grad(ascent, parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def total_variance(gradients: Float[Tensor, "B D"]) -> float:
    """The sum over the parameters of the sample variance over the episodes."""
    return float(gradients.double().var(dim=0).sum())
