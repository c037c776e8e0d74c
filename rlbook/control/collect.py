"""Experience from several environments side by side, as tensors [B, T].

gymnasium's vector environments can reset an ended environment by themselves, and then either hide
the last observation of an episode or slip in a step that is no transition. Here they must not:
``make_envs`` switches that off, and the collector resets what has ended. So the observation
after an action is always the one that the action led to.

Letters: B environments, T actions, A actions to choose from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.control.networks import sizes

Policy = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]  # observations -> logits [..., A]


@dataclass(frozen=True)
class Rollout:
    """T steps of B environments.

    Attributes:
        observations: before each action [B, T, ...]. actions [B, T]. rewards [B, T].
        next_observations: after each action, before any reset [B, T, ...].
        terminated: the action led to a terminal state. truncated: a limit cut the episode [B, T].
        mask: True where there is a step (all of them in ``rollouts``; in ``episodes`` those up to
            the end) [B, T].
        returns: undiscounted returns of the episodes that ended, in the order of their ends (from
            ``episodes``: one per environment, in their order).
    """

    observations: Float[Tensor, "B T ..."]
    actions: Int[Tensor, "B T"]
    rewards: Float[Tensor, "B T"]
    next_observations: Float[Tensor, "B T ..."]
    terminated: Bool[Tensor, "B T"]
    truncated: Bool[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    returns: tuple[float, ...]

    @property
    def ended(self) -> Bool[Tensor, "B T"]:
        """The episode ended here, one way or the other."""
        return self.terminated | self.truncated


def make_envs(id: str, count: int, **kwargs: Any) -> VectorEnv:
    """``count`` copies of a gymnasium environment that never reset by themselves.

    Args:
        id: such as "CartPole-v1". kwargs: for the environment itself.
    """
    return gymnasium.make_vec(
        id,
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        **kwargs,
    )


def rollouts(
    envs: VectorEnv, policy: Policy, *, steps: int, generator: torch.Generator
) -> Iterator[Rollout]:
    """Follow a policy for ever; yield every ``steps`` steps. Episodes run on across yields.

    Args:
        envs: from ``make_envs``. policy: observations [B, ...] → logits [B, A].
        steps: T. generator: draws actions, and the seed of the environments.

    Raises:
        ValueError: the environments reset by themselves; a space is of the wrong kind; the policy
            gives a wrong number of logits; an observation or reward is not finite (which
            environment, which step).

    Book: 07_policy_gradient.
    """
    check_envs(envs)
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    observations = _reset(envs, generator)
    running = np.zeros(envs.num_envs)
    while True:
        record = _Record(envs, steps)
        noise = _gumbel(steps, envs, generator)
        for t in range(steps):
            actions = _choose(policy, observations, noise[t])
            observations, ended = record.step(t, envs, observations, actions)
            running += record.rewards[t]
            if ended.any():
                record.returns += running[ended].tolist()
                running[ended] = 0.0
                observations, _ = envs.reset(options={"reset_mask": ended})
        yield record.rollout()


def episodes(
    envs: VectorEnv,
    policy: Policy,
    *,
    generator: torch.Generator,
    greedy: bool = False,
    max_steps: int = 10_000,
) -> Rollout:
    """One whole episode in each environment; T is the length of the longest.

    Where an episode is over, ``mask`` is False and the rest of its row holds steps of a new one,
    which nobody should use.

    Args:
        envs, policy, generator: as for ``rollouts``.
        greedy: take the likeliest action instead of drawing one.
        max_steps: an episode that is longer counts as truncated here.

    Book: 07_policy_gradient.
    """
    check_envs(envs)
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1")
    observations = _reset(envs, generator)
    record = _Record(envs, 0)
    alive = np.ones(envs.num_envs, bool)
    total = np.zeros(envs.num_envs)
    t = 0
    while alive.any() and t < max_steps:
        if t == len(record.rewards):
            record.grow(128)
            noise = _gumbel(128, envs, generator) * (0.0 if greedy else 1.0)
        actions = _choose(policy, observations, noise[t % 128])
        record.mask[t] = alive
        observations, ended = record.step(t, envs, observations, actions)
        total += np.where(alive, record.rewards[t], 0.0)
        alive &= ~ended
        t += 1
        if ended.any() and alive.any():
            observations, _ = envs.reset(options={"reset_mask": ended})
    record.truncated[t - 1] |= alive
    record.cut(t)
    record.returns = total.tolist()
    return record.rollout()


def evaluate(
    envs: VectorEnv,
    policy: Policy,
    *,
    episodes_per_env: int = 1,
    generator: torch.Generator,
    greedy: bool = True,
) -> Float[np.ndarray, " episodes"]:
    """Undiscounted returns of whole episodes, as many from each environment.

    (Taking the first n episodes to end would favour short ones.)
    """
    rounds = [
        episodes(envs, policy, generator=generator, greedy=greedy).returns
        for _ in range(episodes_per_env)
    ]
    return np.array(rounds).ravel()


def check_envs(envs: Any) -> None:
    """The environments must not reset by themselves, and have spaces that networks can use."""
    if not isinstance(envs, VectorEnv):
        raise ValueError(
            f"a vector of environments is needed, this is {type(envs).__name__}: "
            'make_envs("CartPole-v1", 8) makes one'
        )
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        raise ValueError(
            f"these environments reset by themselves (autoreset_mode={mode}), so the last "
            "observation of an episode is lost or a step is no transition: use make_envs, or "
            "vector_kwargs={'autoreset_mode': AutoresetMode.DISABLED}"
        )
    sizes(envs)


class _Record:
    """Arrays [T, B] that fill up, step by step."""

    def __init__(self, envs: VectorEnv, steps: int) -> None:
        shape, _ = sizes(envs)
        B = envs.num_envs
        self.observations = np.zeros((steps, B, *shape), np.float32)
        self.next_observations = np.zeros((steps, B, *shape), np.float32)
        self.actions = np.zeros((steps, B), np.int64)
        self.rewards = np.zeros((steps, B))
        self.terminated, self.truncated = np.zeros((2, steps, B), bool)
        self.mask = np.ones((steps, B), bool)
        self.returns: list[float] = []

    ARRAYS = (
        "observations", "next_observations", "actions", "rewards", "terminated", "truncated", "mask"
    )  # fmt: skip

    def grow(self, steps: int) -> None:
        for name in self.ARRAYS:
            old = getattr(self, name)
            more = np.zeros((steps, *old.shape[1:]), old.dtype)
            setattr(self, name, np.concatenate([old, more]))

    def cut(self, steps: int) -> None:
        for name in self.ARRAYS:
            setattr(self, name, getattr(self, name)[:steps])

    def step(
        self, t: int, envs: VectorEnv, observations: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Act, write row t, and return the next observations and who has ended."""
        self.observations[t], self.actions[t] = observations, actions
        following, rewards, terminated, truncated, _ = envs.step(actions)
        self.next_observations[t], self.rewards[t] = following, rewards
        self.terminated[t], self.truncated[t] = terminated, truncated & ~terminated
        return following, terminated | truncated

    def rollout(self) -> Rollout:
        """The arrays as tensors [B, T, ...]; refuses numbers that are not finite."""
        for name in ("rewards", "next_observations", "observations"):
            finite = np.isfinite(getattr(self, name))
            if not finite.all():
                t, b = np.argwhere(~finite)[0][:2]
                raise ValueError(
                    f"environment {b} gave {name.replace('_', ' ').rstrip('s')} "
                    f"{getattr(self, name)[t, b]} at step {t} of this rollout: it must be finite"
                )
        tensors = {
            name: torch.from_numpy(getattr(self, name)).transpose(0, 1) for name in self.ARRAYS
        }
        tensors["rewards"] = tensors["rewards"].float()
        return Rollout(**tensors, returns=tuple(self.returns))


def _reset(envs: VectorEnv, generator: torch.Generator) -> np.ndarray:
    seed = int(torch.randint(2**31, (), generator=generator))
    return envs.reset(seed=seed)[0]


def _gumbel(steps: int, envs: VectorEnv, generator: torch.Generator) -> Float[Tensor, "T B A"]:
    """Gumbel noise: argmax(logits + noise) is a draw from softmax(logits)."""
    _, A = sizes(envs)
    uniform = torch.rand(steps, envs.num_envs, A, generator=generator)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1.0 - 1e-7)))


def _choose(
    policy: Policy, observations: np.ndarray, noise: Float[Tensor, "B A"]
) -> Int[np.ndarray, " B"]:
    with torch.inference_mode():
        logits = policy(torch.as_tensor(observations, dtype=torch.float32))
        if logits.shape != noise.shape:
            raise ValueError(
                f"the policy gave {tuple(logits.shape)}, but {tuple(noise.shape)} is needed: one "
                "row per environment, one number per action"
            )
        return (logits + noise).argmax(dim=-1).numpy()
