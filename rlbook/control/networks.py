"""Small networks: observations in, action values, logits or state values out.

An observation of one axis goes through linear layers; one of three axes (channels, rows, columns)
goes through two convolutions first.
"""

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn


class Network(nn.Module):
    """From observations [..., *observation_shape] to [..., outputs].

    Args:
        observation_shape: (features,) or (channels, rows, columns).
        outputs: width of the last layer.
        generator: draws the weights.
        hidden: widths of the linear layers between.
        activation: nn.Tanh, nn.ReLU, ...
        orthogonal: orthogonal weights of gain √2 and zero biases (Saxe et al. 2014); False keeps
            PyTorch's uniform default.
        output_gain: gain of the last layer when orthogonal; 0.01 starts a policy near uniform.

    Book: 06_dqn.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        outputs: int,
        *,
        generator: torch.Generator,
        hidden: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        orthogonal: bool = True,
        output_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.observation_shape = tuple(observation_shape)
        layers, width = _first_layers(self.observation_shape)
        for units in hidden:
            layers += [_empty(nn.Linear, width, units), activation()]
            width = units
        layers.append(_empty(nn.Linear, width, outputs))
        self.layers = nn.Sequential(*layers)
        weighted = [layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
        for layer in weighted:
            gain = output_gain if layer is weighted[-1] else 2.0**0.5
            _draw_weights(layer, gain if orthogonal else None, generator)

    def forward(self, observations: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        axes = observations.ndim - len(self.observation_shape)
        leading, own = observations.shape[:axes], observations.shape[axes:]
        if own != self.observation_shape:
            raise ValueError(
                f"observations {tuple(observations.shape)} must end in {self.observation_shape}, "
                "the shape this network was made for"
            )
        outputs = self.layers(observations.reshape(-1, *own))
        return outputs.view(*leading, outputs.shape[-1])


class ActorCritic(nn.Module):
    """A policy π(a|s) and a state value V(s): two networks, or two heads on one body.

    Args:
        observation_shape, hidden, activation, orthogonal: as for ``Network``.
        actions: number of actions A.
        seed: of the weights.
        shared: one body for both, so that the methods that train the two apart (TRPO; REINFORCE
            with a value baseline) refuse it. Separate networks do not pull at each other's
            features, and are the default; sharing pays where the body is large (pixels, text).

    Book: 08_actor_critic.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        actions: int,
        *,
        seed: int,
        hidden: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.Tanh,
        orthogonal: bool = True,
        shared: bool = False,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        options = {
            "generator": generator, "hidden": hidden, "activation": activation,
            "orthogonal": orthogonal,
        }  # fmt: skip
        self.actor = Network(observation_shape, actions, output_gain=0.01, **options)
        self.critic = Network(observation_shape, 1, output_gain=1.0, **options)
        if shared:
            body = self.actor.layers[:-1]
            self.critic.layers = nn.Sequential(*body, self.critic.layers[-1])

    def policy(self, observations: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Logits of the actions [..., A]."""
        return self.actor(observations)

    def value(self, observations: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """V(s) [...]."""
        return self.critic(observations).squeeze(-1)


def check_separate(network: ActorCritic, method: str) -> None:
    """ValueError if policy and value share parameters: fitting V would then move the policy."""
    critic = {id(p) for p in network.critic.parameters()}
    if any(id(p) in critic for p in network.actor.parameters()):
        raise ValueError(
            f"{method} trains policy and value apart, and would move the policy by fitting the "
            "value of a shared body: use ActorCritic(..., shared=False)"
        )


def sizes(env: Any) -> tuple[tuple[int, ...], int]:
    """The shape of one observation and the number of actions of an environment (or a vector).

    Raises:
        ValueError: the actions are not Discrete, or the observations are not a Box.
    """
    observation = getattr(env, "single_observation_space", env.observation_space)
    action = getattr(env, "single_action_space", env.action_space)
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise ValueError(
            f"the action space is {action}, but these methods choose one of n actions, Discrete(n) "
            "from 0: wrap the environment so that it offers a list of actions"
        )
    if not isinstance(observation, spaces.Box) or len(observation.shape) not in (1, 3):
        raise ValueError(
            f"the observation space is {observation}, but a network needs a Box of one axis "
            "(features) or three (channels, rows, columns): wrap it (FlattenObservation "
            "turns Discrete into one-hot), or use a table (chapter 05)"
        )
    return observation.shape, int(action.n)


def _first_layers(shape: tuple[int, ...]) -> tuple[list[nn.Module], int]:
    """The layers before the linear ones, and how many numbers leave them."""
    if len(shape) == 1:
        return [], shape[0]
    if len(shape) == 3:
        channels, rows, columns = shape
        convolutions = [
            _empty(nn.Conv2d, channels, 16, kernel_size=3, padding=1), nn.ReLU(),
            _empty(nn.Conv2d, 16, 32, kernel_size=3, padding=1), nn.ReLU(),
            nn.Flatten(),
        ]  # fmt: skip
        return convolutions, 32 * rows * columns
    raise ValueError(
        f"an observation of shape {shape} has {len(shape)} axes: one (features) or three "
        "(channels, rows, columns) are needed"
    )


def _empty(layer: type[nn.Module], *sizes: int, **options: int) -> nn.Module:
    """A layer without weights yet, so that PyTorch's global generator is not touched."""
    return nn.utils.skip_init(layer, *sizes, **options)


def _draw_weights(
    layer: nn.Linear | nn.Conv2d, gain: float | None, generator: torch.Generator
) -> None:
    """Orthogonal weights of a gain; with None, PyTorch's default, drawn from the generator."""
    if gain is not None:
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        nn.init.zeros_(layer.bias)
        return
    nn.init.kaiming_uniform_(layer.weight, a=5.0**0.5, generator=generator)
    bound = layer.weight[0].numel() ** -0.5
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
