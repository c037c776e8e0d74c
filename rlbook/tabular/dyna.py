"""Dyna: learn from what happened, and again from what a learned model says would happen.

After each real step the agent remembers where it led, and then replays remembered steps. A
step in the world may be dear and a step in memory is cheap: planning with the model lets one
find travel through the table many states further before the next real step.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from rlbook.tabular.td import (
    Explorer,
    Schedule,
    TDReport,
    action_table,
    begin,
    check_discount,
    scheduled,
)


def dyna_q(
    env: Any,
    *,
    gamma: float,
    alpha: Schedule,
    epsilon: Schedule,
    planning_steps: int,
    episodes: int,
    generator: np.random.Generator,
    Q: Float[np.ndarray, "S A"] | None = None,
) -> Iterator[TDReport]:
    """Tabular Dyna-Q: Q-learning on each real step, then on ``planning_steps`` remembered ones.

        real:     Q(s, a) ← Q(s, a) + α [ r + γ max_a' Q(s', a') - Q(s, a) ];  Model(s, a) ← r, s'
        planning: the same update for a pair (s, a) drawn evenly among those seen, with the
                  model's r and s'

    The model keeps the latest outcome of each pair, so it is right for deterministic
    environments only. With planning_steps = 0 this is ``td.q_learning``, number for number.

    Args:
        env, gamma, alpha, epsilon, episodes, generator, Q: as for ``td.sarsa``.
        planning_steps: replayed updates per real step, at least 0.

    Book: 05_temporal_difference. Source: Sutton (1990); Sutton and Barto (2018), section 8.2.
    """
    if planning_steps < 0:
        raise ValueError(f"planning_steps={planning_steps} must be at least 0")
    check_discount(gamma)
    Q = action_table(env, Q)
    explorer = Explorer(generator)
    model: dict[tuple[int, int], tuple[float, int, bool]] = {}  # (s, a) → r, s', terminated
    seen: list[tuple[int, int]] = []  # the keys of the model, to draw from

    def learn(s: int, a: int, alpha_now: float) -> None:
        reward, s_next, terminated = model[s, a]
        target = reward + (0.0 if terminated else gamma * Q[s_next].max())
        Q[s, a] += alpha_now * (target - Q[s, a])

    for episode in range(episodes):
        alpha_now = scheduled(alpha, episode, "alpha")
        epsilon_now = scheduled(epsilon, episode, "epsilon")
        state = begin(env, episode, generator)
        steps, total, ended = 0, 0.0, False
        while not ended:
            action = explorer.draw(Q[state], epsilon_now)
            s_next, reward, terminated, truncated, _ = env.step(action)
            if (state, action) not in model:
                seen.append((state, action))
            model[state, action] = (reward, s_next, terminated)
            learn(state, action, alpha_now)
            for _ in range(planning_steps):
                learn(*seen[int(explorer.uniform() * len(seen))], alpha_now)
            state, steps, total, ended = s_next, steps + 1, total + reward, terminated or truncated
        yield TDReport(episode, steps, total, Q=Q)
