"""Losses of a value estimate, one per prediction; only ``aggregate`` reduces them.

All squares carry the factor ½, so that the gradient is the error itself; a weight of the value
loss in the literature that assumes no ½ is twice ours. Targets are constants: no gradient flows
into them.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlbook.functional.arguments import check_bool, check_positive, check_same_shape, check_unit


def td_error(
    rewards: Float[Tensor, "*shape"],
    values: Float[Tensor, "*shape"],
    next_values: Float[Tensor, "*shape"],
    *,
    terminated: Bool[Tensor, "*shape"],
    gamma: float,
) -> Float[Tensor, "*shape"]:
    """How far one step's outcome is from what was predicted.

        δ_t = r_t + γ V(s_{t+1}) - V(s_t),    V(s_{t+1}) = 0 where terminated

    next_values[t] is the value of the state that action t led to, before any reset; it is not
    read where terminated. For Q-learning pass Q(s, a) and max_a' Q(s', a').
    Raises ValueError for a gamma outside [0, 1] and for shapes that differ.

    Book: 06_dqn, 08_actor_critic. Source: Sutton and Barto (2018), equation 6.5.
    """
    check_unit(gamma=gamma)
    check_bool(terminated=terminated)
    check_same_shape(rewards=rewards, values=values, next_values=next_values, terminated=terminated)
    return rewards + gamma * torch.where(terminated, 0.0, next_values) - values


def squared_loss(
    predictions: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Half the squared error.

        L = ½ (v - G)²

    Book: 06_dqn.
    """
    check_same_shape(predictions=predictions, targets=targets)
    return 0.5 * (predictions - targets.detach()).square()


def huber_loss(
    predictions: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], *, delta: float = 1.0
) -> Float[Tensor, "*shape"]:
    """Half the squared error near the target, linear far from it: no gradient exceeds delta.

        L = ½ e² if |e| ≤ δ, else δ (|e| - ½ δ),    e = v - G

    With delta = 1 this is what Mnih et al. (2015) mean by clipping the error to [-1, 1].
    Raises ValueError for a delta that is not above 0.

    Book: 06_dqn. Source: Huber (1964).
    """
    check_same_shape(predictions=predictions, targets=targets)
    check_positive(delta=delta)
    error = predictions - targets.detach()
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))


def clipped_value_loss(
    values: Float[Tensor, "*shape"],
    old_values: Float[Tensor, "*shape"],
    targets: Float[Tensor, "*shape"],
    *,
    clip: float,
) -> Float[Tensor, "*shape"]:
    """Squared loss that stops pulling once the value has moved by ``clip`` towards its target.

        L = ½ max( (v - G)², (v_old + clip(v - v_old, -ε, ε) - G)² )

    The larger of the two, a pessimistic choice: a value that moved *away* from its target is
    still pulled back. clip is in units of the return. Raises ValueError for a negative clip.

    Book: 09_ppo. Source: the PPO2 code of OpenAI Baselines (not in the PPO paper); Engstrom et
    al. (2020), section 3; Andrychowicz et al. (2021) found no gain from it.
    """
    check_same_shape(values=values, old_values=old_values, targets=targets)
    if not clip >= 0.0:
        raise ValueError(f"clip={clip} must not be negative; without clipping use squared_loss")
    old_values = old_values.detach()
    moved = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(squared_loss(values, targets), squared_loss(moved, targets))
