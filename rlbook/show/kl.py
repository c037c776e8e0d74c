"""Pictures of the price of KL: texts and their probabilities, β on a dial, reward over KL."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.lm.exact import expected_reward, matching, sequence_kl, sequence_logprobs
from rlbook.lm.tabular_lm import TabularLM
from rlbook.show.plots import CYCLE, STYLE, panels, styled
from rlbook.show.widgets import controlled_figure

BETAS = np.geomspace(0.05, 10.0, 61)  # of the curves over β
REST = "all others"
STYLES = "os^Dv"


def best_policy(ref: TabularLM, rewards: Float[torch.Tensor, " B"], beta: float) -> TabularLM:
    """π* ∝ π_ref exp(R/β), the policy with the most reward minus β·KL."""
    return matching(ref, sequence_logprobs(ref).detach() + rewards / beta)


def reward_and_kl(
    model: TabularLM, ref: TabularLM, rewards: Float[torch.Tensor, " B"]
) -> tuple[float, float]:
    """The exact expected reward, and KL(π‖π_ref) in nats."""
    with torch.no_grad():
        return expected_reward(model, rewards).item(), sequence_kl(model, ref).item()


def frontier(
    ref: TabularLM, rewards: Float[torch.Tensor, " B"], betas: Sequence[float] = tuple(BETAS)
) -> Float[np.ndarray, "n 2"]:
    """KL and reward of π* for each β: no policy has more reward at the same KL."""
    points = [reward_and_kl(best_policy(ref, rewards, beta), ref, rewards) for beta in betas]
    return np.array(points)[:, ::-1]


# --- pictures --------------------------------------------------------------------------------


@styled
def plot_texts(
    models: Mapping[str, TabularLM],
    texts: Sequence[str],
    shown: Sequence[str],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw the probabilities of a few texts under several models of one prompt; the rest in one.

    Args:
        texts: every response in the order of ``enumerate_responses``. shown: those with a group of
            bars of their own, from left to right.
    """
    ax = panels(1, width=1.5 + 1.35 * (len(shown) + 1), height=3.4)[1][0] if ax is None else ax
    rows = [texts.index(text) for text in shown]
    width = 0.84 / len(models)
    for m, (name, model) in enumerate(models.items()):
        p = sequence_logprobs(model).exp().detach().numpy()
        heights = np.append(p[rows], 1.0 - p[rows].sum())
        places = np.arange(len(heights)) + width * (m - (len(models) - 1) / 2)
        ax.bar(places, heights, width, color=CYCLE[m], label=name)
    ax.set_xticks(range(len(rows) + 1), [text.replace(" ", "\n") for text in [*shown, REST]])
    ax.set(ylim=(0.0, 1.0), ylabel="probability", title=title)
    ax.legend(loc="upper right")
    return ax.figure


@styled
def plot_frontier(
    curve: Float[np.ndarray, "n 2"],
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw reward over KL: the curve that nobody can exceed, and where policies lie.

    Args:
        curve: of ``frontier``. points: name → (reward, KL) of one policy or several, joined by a
            thin line in their order.
    """
    ax = panels(1, width=6.6, height=3.9)[1][0] if ax is None else ax
    ax.plot(curve[:, 0], curve[:, 1], color="#555555", label="π* for every β: the most there is")
    for i, (name, found) in enumerate(points.items()):
        heights, places = np.array(found, float).T
        ax.plot(places, heights, color=CYCLE[i % 6], marker=STYLES[i % 5], linewidth=0.8,
                markersize=8, label=name)  # fmt: skip
    ax.set(xlabel="KL(π‖ref) in nats per response", ylabel="expected reward", title=title)
    ax.grid(color="#dddddd", linewidth=0.8)
    ax.legend(loc="lower right", fontsize=9)
    return ax.figure


@styled
def plot_estimates(*, ax: Axes | None = None) -> Figure:
    """Draw k1, k2 and k3 over the log-ratio log π - log ref of the sampled token."""
    ax = panels(1, width=6.4, height=3.4)[1][0] if ax is None else ax
    x = np.linspace(-2.2, 2.2, 201)
    curves = {"k1 = x": x, "k2 = x²/2": x**2 / 2, "k3 = e⁻ˣ - 1 + x": np.expm1(-x) + x}
    for i, (name, y) in enumerate(curves.items()):
        ax.plot(x, y, color=CYCLE[i], linestyle=("-", "--", "-.")[i], label=name)
    ax.axhline(0.0, color="#999999", linewidth=0.8)
    ax.axvline(0.0, color="#999999", linewidth=0.8)
    ax.set(xlabel="x = log π - log ref of the token that was drawn (nats)", ylabel="estimate")
    ax.legend(loc="upper center")
    return ax.figure


# --- the dial --------------------------------------------------------------------------------


def draw_dial(
    ref: TabularLM,
    rewards: Float[torch.Tensor, " B"],
    texts: Sequence[str],
    shown: Sequence[str],
    *,
    log_beta: float,
) -> tuple[Figure, str]:
    """π* beside the reference at one β = 10^log_beta, and its place on the frontier."""
    beta = 10.0**log_beta
    best = best_policy(ref, rewards, beta)
    with plt.rc_context(STYLE):
        fig, axes = panels(2, width=5.6, height=3.6)
        plot_texts({"ref": ref, "π*": best}, texts, shown, title=f"β = {beta:.2f}", ax=axes[0])
        reward, kl = reward_and_kl(best, ref, rewards)
        plot_frontier(frontier(ref, rewards), {"π* now": [(reward, kl)]}, ax=axes[1])
    value = reward - beta * kl
    return fig, f"β {beta:.2f}: reward {reward:.3f}, KL {kl:.3f} nats, reward - β·KL {value:.3f}"


def beta_dial(
    ref: TabularLM,
    rewards: Float[torch.Tensor, " B"],
    texts: Sequence[str],
    shown: Sequence[str],
    *,
    beta: float = 0.5,
) -> ipywidgets.Widget:
    """A slider for β: the best policy, its reward and its KL follow it."""
    slider: Any = ipywidgets.FloatSlider(
        value=float(np.log10(beta)),
        min=-1.3,
        max=1.0,
        step=0.05,
        description="log₁₀ β",
        continuous_update=False,
    )

    def draw(log_beta: float) -> tuple[Figure, str]:
        return draw_dial(ref, rewards, texts, shown, log_beta=log_beta)

    return controlled_figure(draw, log_beta=slider)
