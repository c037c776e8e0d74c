"""Pictures of rejection sampling: what passes, and how far best-of-n goes."""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlbook.lm.exact import best_of_n_logprobs
from rlbook.lm.tabular_lm import TabularLM
from rlbook.posttrain.rejection import best_of_n_kl_bound
from rlbook.show.plots import BLUE, ORANGE, STYLE, panels, plot_curves, styled
from rlbook.show.widgets import controlled_figure

FATES = {"kept": BLUE, "repeat": "#9fc6e0", "dropped": "#e8e8e8"}
ANSWERS = 12  # of the toy prompt behind the sliders
MOST = 32  # largest n of its curve


@styled
def plot_sieve(
    fates: Sequence[Sequence[str]], names: Sequence[str], *, ax: Axes | None = None
) -> Figure:
    """Draw the K samples of each prompt as a row of squares, coloured by what becomes of them.

    Args:
        fates: N rows of K: "kept", "repeat" (right, but seen before) or "dropped".
        names: N prompts.

    Raises ValueError for another fate.
    """
    N, K = len(fates), len(fates[0])
    ax = panels(1, width=2.4 + 0.42 * K, height=0.8 + 0.32 * N)[1][0] if ax is None else ax
    for n, row in enumerate(fates):
        for k, fate in enumerate(row):
            if fate not in FATES:
                raise ValueError(f"a sample is {fate!r}: use one of {', '.join(FATES)}")
            ax.add_patch(
                Rectangle((k - 0.5, n - 0.5), 1, 1, facecolor=FATES[fate], edgecolor="white", lw=2)
            )
    for fate, colour in FATES.items():
        ax.add_patch(Rectangle((0, 0), 0, 0, facecolor=colour, label=fate))
    ax.set(xlim=(-0.5, K - 0.5), ylim=(N - 0.5, -0.5), xlabel="sample")
    ax.set_xticks(range(K), range(1, K + 1))
    ax.set_yticks(range(N), names, family="monospace", size=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax.figure


# --- best-of-n, by sliders -------------------------------------------------------------------


def toy_rewards(levels: int) -> torch.Tensor:
    """Rewards 0 ... levels - 1 for the ANSWERS answers of the toy prompt, rising [ANSWERS].

    Raises ValueError for more levels than answers, or fewer than 2.
    """
    if not 2 <= levels <= ANSWERS:
        raise ValueError(f"levels={levels} must be 2 to {ANSWERS}, the number of answers")
    return torch.arange(ANSWERS, dtype=torch.float64).mul(levels).div(ANSWERS).floor()


def toy_best_of_n(levels: int, n: int) -> tuple[np.ndarray, float]:
    """Best-of-n of ANSWERS equally likely answers: their probabilities, and the KL in nats."""
    model = TabularLM([[0]], vocab_size=ANSWERS, max_new_tokens=1)
    with torch.no_grad():
        log_best = best_of_n_logprobs(model, toy_rewards(levels), n=n)
    best = log_best.exp()
    kl = (best * (log_best + np.log(ANSWERS))).sum().item()
    return best.numpy(), max(kl, 0.0)


def draw_best_of_n(*, n: int, levels: int) -> tuple[Figure, str]:
    """Best-of-n over twelve equally likely answers, and its KL to them beside the bound."""
    best, kl = toy_best_of_n(levels, n)
    x = np.arange(1, MOST + 1)
    with plt.rc_context(STYLE):
        fig, (bars, curve) = panels(2, width=4.6, height=3.4)
        bars.bar(np.arange(ANSWERS), best, color=BLUE, label="best-of-n")
        bars.axhline(1 / ANSWERS, color=ORANGE, linestyle="--", label="the policy")
        rewards = [f"{reward:.0f}" for reward in toy_rewards(levels).tolist()]
        bars.set_xticks(range(ANSWERS), rewards)
        bars.set(xlabel="reward of the answer", ylabel="probability", ylim=(0.0, 1.0))
        bars.legend(loc="upper left")
        curves = {
            "bound": [best_of_n_kl_bound(int(k)) for k in x],
            "exact": [toy_best_of_n(levels, int(k))[1] for k in x],
        }
        plot_curves(curves, x=x, xlabel="n", ylabel="KL to the policy (nats)", ax=curve)
        curve.axvline(n, color="#777777", linewidth=0.8)
        curve.get_legend().remove()
        curve.legend(loc="lower right")
    words = f"n = {n}, {levels} different rewards: KL {kl:.3f}, bound {best_of_n_kl_bound(n):.3f}"
    return fig, words


def best_of_n_sliders(*, n: int = 4, levels: int = ANSWERS) -> ipywidgets.Widget:
    """Sliders for n and for how many different rewards the twelve answers have."""

    def slider(name: str, value: int, low: int, high: int) -> Any:
        return ipywidgets.IntSlider(
            value=value, min=low, max=high, description=name, continuous_update=False
        )

    return controlled_figure(
        draw_best_of_n, n=slider("n", n, 1, MOST), levels=slider("rewards", levels, 2, ANSWERS)
    )
