"""Pictures of PPO: the clipped objective over the ratio, for an action that was good or bad.

The curves come from ``ppo_clip_loss`` and its gradient, so they show what the training does.
"""

from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from rlbook.functional.policy_losses import ppo_clip_loss
from rlbook.show.plots import BLUE, ORANGE, RED, STYLE, panels
from rlbook.show.widgets import controlled_figure

LOWEST, HIGHEST = 0.02, 2.5


def clipped_curve(
    ratios: Float[np.ndarray, " n"],
    advantage: float,
    *,
    clip: float,
    clip_high: float | None = None,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The objective (minus the loss) at each ratio, and its slope by the ratio."""
    ratio = torch.tensor(ratios, requires_grad=True)
    loss = ppo_clip_loss(
        ratio.log()[None],
        torch.zeros(1, len(ratios), dtype=torch.float64),
        torch.full((1, len(ratios)), advantage, dtype=torch.float64),
        clip=clip,
        clip_high=clip_high,
    )
    (slope,) = torch.autograd.grad(-loss.sum(), ratio)
    return -loss[0].detach().numpy(), slope.numpy()


def draw_clip(
    *, clip: float, clip_high: float | None = None, ratio: float | None = None
) -> tuple[Figure, str]:
    """The objective over the ratio for A = +1 and A = -1; flat parts are shaded.

    Args:
        clip, clip_high: ε below, and above if it differs.
        ratio: mark where one action stands.
    """
    ratios = np.linspace(LOWEST, HIGHEST, 497)
    words = []
    with plt.rc_context(STYLE):
        fig, axes = panels(2, width=4.6, height=3.4)
        for ax, advantage in zip(axes, (1.0, -1.0), strict=True):
            value, slope = clipped_curve(ratios, advantage, clip=clip, clip_high=clip_high)
            ax.axvspan(*_flat_part(ratios, slope), color=ORANGE, alpha=0.15, linewidth=0)
            ax.plot(ratios, advantage * ratios, color="#999999", linestyle=":", label="ρ A")
            ax.plot(ratios, value, color=BLUE, label="clipped")
            ax.axvline(1.0, color="#777777", linewidth=0.8)
            if ratio is not None:
                height, steepness = clipped_curve(
                    np.array([ratio]), advantage, clip=clip, clip_high=clip_high
                )
                ax.plot([ratio], height, "o", color=RED, markersize=8)
                words.append(f"A = {advantage:+.0f}: {height[0]:.2f}, slope {steepness[0]:+.0f}")
            sign = "> 0: make it likelier" if advantage > 0 else "< 0: make it rarer"
            ax.set(xlabel="ratio ρ", ylabel="objective", title=f"A {sign}")
            ax.set(xlim=(0.0, HIGHEST), ylim=(0.0, 2.6) if advantage > 0 else (-2.6, 0.0))
        axes[0].legend(loc="upper left")
        if ratio is None:
            return fig, "shaded: the slope is 0"
        return fig, f"ratio {ratio:.2f}; " + "; ".join(words)


def _flat_part(ratios: np.ndarray, slope: np.ndarray) -> tuple[float, float]:
    """From where to where the slope is 0; an empty interval if nowhere."""
    flat = ratios[slope == 0.0]
    return (float(flat[0]), float(flat[-1])) if len(flat) else (0.0, 0.0)


def clip_sliders() -> ipywidgets.Widget:
    """Sliders for both sides of the clip and for the ratio of one action."""

    def slider(name: str, value: float, low: float, high: float) -> Any:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=0.02, description=name, continuous_update=False
        )

    return controlled_figure(
        draw_clip,
        clip=slider("ε below", 0.2, 0.0, 0.9),
        clip_high=slider("ε above", 0.2, 0.0, 1.4),
        ratio=slider("ratio", 1.3, 0.1, 2.4),
    )
