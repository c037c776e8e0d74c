"""Deep Q-networks: Q-learning with a network, a replay memory and a slow copy for the targets."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor, nn

from rlbook.control.collect import rollouts
from rlbook.control.replay import Replay, Windows
from rlbook.functional.returns import n_step_returns
from rlbook.functional.value_losses import huber_loss, squared_loss
from rlbook.loop import mean_metrics, optimiser_step, set_learning_rate
from rlbook.report import StepReport


@dataclass(frozen=True)
class DQNConfig:
    """Settings of DQN.

    Attributes:
        total_steps: environment steps in all, rounded up to whole rollouts.
        rollout_steps: steps of each environment between updates.
        gradient_steps: minibatches per update. batch_size: transitions in each.
        gamma: discount. n: rewards in a target before it bootstraps (for n > 1 those after
            the first come from older policies, and are not corrected for that).
        capacity: transitions the replay memory holds. One rollout (B · rollout_steps) means no
            replay: only what was just seen is learnt from.
        learning_starts: environment steps before the first update.
        target_period: gradient steps between copies of the network into the target network;
            None does without a target network.
        double: the online network chooses the next action, the target network values it.
        huber: the δ of the Huber loss; None is the squared error.
        learning_rate: of Adam. anneal: let it fall linearly to 0.
        max_grad_norm: longest gradient; None is off.
        epsilon_start, epsilon_end: shares of random actions; epsilon falls linearly over
            exploration_steps environment steps.
    """

    total_steps: int = 50_000
    rollout_steps: int = 1
    gradient_steps: int = 1
    batch_size: int = 64
    gamma: float = 0.99
    n: int = 1
    capacity: int = 50_000
    learning_starts: int = 1_000
    target_period: int | None = 100
    double: bool = False
    huber: float | None = 1.0
    learning_rate: float = 1e-3
    anneal: bool = False
    max_grad_norm: float | None = 10.0
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    exploration_steps: int = 10_000


def dqn(
    envs: VectorEnv, network: nn.Module, config: DQNConfig, *, seed: int
) -> Iterator[StepReport]:
    """Train ``network`` (observations → Q [..., A]) in place; a report after each update.

        L = mean Huber( Q(s, a) - target ),    target = r + γ max_a' Q_slow(s', a')

    Metrics, means over the gradient steps of the update: ``loss``; ``q`` the mean prediction;
    ``target`` the mean target; ``grad_norm`` before clipping; and ``epsilon``. Nothing is
    reported before ``learning_starts``.

    Args:
        envs: B environments from ``collect.make_envs``.
        seed: of the environments, the actions and the minibatches.

    Raises:
        ValueError: nothing would be learnt (``learning_starts``); a ``target_period`` below 1;
            see also ``collect.rollouts`` and ``Replay.add``.

    Book: 06_dqn. Source: Mnih et al. (2015), algorithm 1; double: van Hasselt et al. (2016).
    """
    _check(config)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    slow = network if config.target_period is None else copy.deepcopy(network)
    memory = Replay(config.capacity)
    samples = update = gradient_steps = 0
    finished: tuple[float, ...] = ()

    def behaviour(observations: Tensor) -> Tensor:
        return epsilon_greedy_logits(network(observations), epsilon(samples, config))

    for rollout in rollouts(envs, behaviour, steps=config.rollout_steps, generator=generator):
        memory.add(rollout)
        samples += rollout.actions.numel()
        finished += rollout.returns
        if samples >= config.learning_starts:
            if config.anneal:
                left = max(0.0, 1.0 - samples / config.total_steps)
                set_learning_rate(optimiser, config.learning_rate * left)
            rows = []
            for _ in range(config.gradient_steps):
                batch = memory.sample(config.batch_size, n=config.n, generator=generator)
                rows.append(_learn(network, slow, optimiser, batch, config))
                gradient_steps += 1
                if slow is not network and gradient_steps % config.target_period == 0:
                    slow.load_state_dict(network.state_dict())
            update += 1
            metrics = mean_metrics(rows) | {"epsilon": epsilon(samples, config)}
            yield StepReport(update, samples, metrics, finished)
            finished = ()
        if samples >= config.total_steps:
            return


def q_targets(
    network: nn.Module, slow: nn.Module, batch: Windows, *, gamma: float, n: int, double: bool
) -> Float[Tensor, " M"]:
    """The n-step targets of the windows' first actions, without gradient.

        r_t + ... + γ^{n-1} r_{t+n-1} + γ^n Q_slow(s_{t+n}, a*),
        a* = argmax Q_slow(s_{t+n}, ·), or argmax Q(s_{t+n}, ·) if double

    Book: 06_dqn. Source: Mnih et al. (2015); van Hasselt et al. (2016), equation 4.
    """
    with torch.no_grad():
        slow_values = slow(batch.next_observations)
        chooser = network(batch.next_observations) if double else slow_values
        best = chooser.argmax(dim=-1, keepdim=True)
        next_values = slow_values.gather(-1, best).squeeze(-1)
        returns = n_step_returns(
            batch.rewards, next_values, n=n, terminated=batch.terminated, ended=batch.ended,
            gamma=gamma,
        )  # fmt: skip
    return returns[:, 0]


def epsilon(samples: int, config: DQNConfig) -> float:
    """The share of random actions after so many environment steps."""
    if samples >= config.exploration_steps:
        return config.epsilon_end
    progress = samples / config.exploration_steps
    return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)


def epsilon_greedy_logits(q: Float[Tensor, "B A"], epsilon: float) -> Float[Tensor, "B A"]:
    """Log-probabilities of ε-greedy: ε/A for each action, and 1 - ε more for the best."""
    best = nn.functional.one_hot(q.argmax(dim=-1), q.shape[-1])
    return torch.log(epsilon / q.shape[-1] + (1.0 - epsilon) * best)


def _learn(
    network: nn.Module,
    slow: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Windows,
    config: DQNConfig,
) -> dict[str, float]:
    """One gradient step on one minibatch."""
    targets = q_targets(network, slow, batch, gamma=config.gamma, n=config.n, double=config.double)
    q = network(batch.observations[:, 0]).gather(-1, batch.actions[:, :1]).squeeze(-1)
    losses = (
        squared_loss(q, targets)
        if config.huber is None
        else huber_loss(q, targets, delta=config.huber)
    )
    loss = losses.mean()
    norm = optimiser_step(optimiser, loss, max_grad_norm=config.max_grad_norm)
    return {
        "loss": loss.item(),
        "q": q.mean().item(),
        "target": targets.mean().item(),
        "grad_norm": norm,
    }


def _check(config: DQNConfig) -> None:
    if config.learning_starts > config.total_steps:
        raise ValueError(
            f"learning_starts={config.learning_starts} lies beyond total_steps="
            f"{config.total_steps}: nothing would be learnt"
        )
    if config.target_period is not None and config.target_period < 1:
        raise ValueError(
            f"target_period={config.target_period} must be at least 1 gradient step, or None for "
            "no target network"
        )
