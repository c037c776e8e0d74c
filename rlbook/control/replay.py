"""Replay: a memory of the last transitions, from which minibatches are drawn."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.control.collect import Rollout


class Windows(NamedTuple):
    """M windows of n consecutive steps of one environment each.

    ``ended`` is also True in the last step before the memory's seam. Column 0 is the step to
    learn from; what follows serves its n-step target.
    """

    observations: Float[Tensor, "M n ..."]
    actions: Int[Tensor, "M n"]
    rewards: Float[Tensor, "M n"]
    next_observations: Float[Tensor, "M n ..."]
    terminated: Bool[Tensor, "M n"]
    ended: Bool[Tensor, "M n"]


class Replay:
    """The last ``capacity`` transitions of B environments, oldest overwritten first.

    Args:
        capacity: transitions in all; rounded down to the same number for each environment.

    Book: 06_dqn. Source: Lin (1992); Mnih et al. (2015).
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[Tensor] = []  # each [B, capacity // B, ...]
        self.added = 0  # steps per environment so far

    def __len__(self) -> int:
        """How many transitions can be drawn now."""
        if not self.rows:
            return 0
        B, steps = self.rows[1].shape
        return B * min(self.added, steps)

    def add(self, rollout: Rollout) -> None:
        """Append a rollout [B, T] in time order."""
        B, T = rollout.actions.shape
        fields = (
            rollout.observations, rollout.actions, rollout.rewards,
            rollout.next_observations, rollout.terminated, rollout.ended,
        )  # fmt: skip
        steps = self.capacity // B
        if steps < T:
            raise ValueError(
                f"capacity={self.capacity} cannot hold one rollout of {B} x {T} transitions: "
                f"make it at least {B * T}"
            )
        if not self.rows:
            self.rows = [x.new_zeros(B, steps, *x.shape[2:]) for x in fields]
        columns = torch.arange(self.added, self.added + T) % steps
        for row, x in zip(self.rows, fields, strict=True):
            row[:, columns] = x
        self.added += T

    def sample(self, count: int, *, n: int = 1, generator: torch.Generator) -> Windows:
        """Draw ``count`` windows of ``n`` steps, uniformly over the transitions they begin at.

        A window that would run past the newest transition is closed there, as if the episode had
        been truncated: its target bootstraps after fewer than n steps.
        """
        if not self.rows:
            raise ValueError("the replay memory is empty: add a rollout before sampling")
        B, steps = self.rows[1].shape
        stored = min(self.added, steps)
        oldest = self.added - stored
        env = torch.randint(B, (count, 1), generator=generator)
        start = torch.randint(stored, (count, 1), generator=generator)
        time = oldest + start + torch.arange(n)
        newest = time >= self.added - 1
        column = time.clamp(max=self.added - 1) % steps
        windows = Windows(*(row[env, column] for row in self.rows))
        return windows._replace(ended=windows.ended | newest)
