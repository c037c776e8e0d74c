"""A choice that maximisation bias gets wrong: leave with nothing, or try one of many noisy arms."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

FORK, ARMS, END = 0, 1, 2
LEFT, RIGHT = 0, 1


class NoisyChoice(gym.Env):
    """Two decisions. At the fork, right ends the episode with reward 0; left leads to the arms
    with reward 0. Each arm ends the episode with a reward drawn from N(mean, noise²).

    With a negative mean, right is the better choice. Yet among many arms of which little is
    known, one looks good by luck, and a learner that believes the largest estimate goes left.

    States are FORK = 0, ARMS = 1, END = 2. The fork offers two actions, LEFT = 0 and RIGHT = 1;
    start a learner from ``first_guess()``, which withholds the others there.

    Args:
        arms: how many, at least 2.
        mean: expected reward of every arm. noise: standard deviation, at least 0.

    Book: 05_temporal_difference. Source: Sutton and Barto (2018), example 6.7 (whose arms are
    N(-0.1, 1); "many" is 10 here).
    """

    def __init__(self, arms: int = 10, *, mean: float = -0.1, noise: float = 1.0) -> None:
        if arms < 2:
            raise ValueError(f"arms={arms} must be at least 2")
        if not (np.isfinite(mean) and 0.0 <= noise < np.inf):
            raise ValueError(f"mean={mean} must be finite and noise={noise} finite and >= 0")
        self.arms, self.mean, self.noise = arms, mean, noise
        self.observation_space = spaces.Discrete(3)
        self.action_space = spaces.Discrete(arms)
        self.state = END

    def first_guess(self) -> Float[np.ndarray, "S A"]:
        """Q [3, arms]: 0, and -inf for what the fork does not offer."""
        Q = np.zeros((3, self.arms))
        Q[FORK, 2:] = -np.inf
        return Q

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        """Back to the fork."""
        super().reset(seed=seed)
        self.state = FORK
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        """Go left or right at the fork; pull an arm."""
        if self.state == END:
            raise ValueError("the episode is over: call reset() first")
        if not 0 <= action < (2 if self.state == FORK else self.arms):
            offered = "0 (left) and 1 (right)" if self.state == FORK else f"0..{self.arms - 1}"
            raise ValueError(
                f"action {action} is not offered in state {self.state}, only {offered}: start "
                "from Q=env.first_guess()"
            )
        if self.state == FORK and action == LEFT:
            self.state = ARMS
            return self.state, 0.0, False, False, {}
        pulled, self.state = self.state == ARMS, END
        reward = self.mean + self.noise * self.np_random.standard_normal() if pulled else 0.0
        return self.state, float(reward), True, False, {}
