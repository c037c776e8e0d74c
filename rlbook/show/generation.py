"""Pictures of generation: a token's distribution as it is heated and cut, and a padded batch.

What is kept comes from ``restrict``, so the picture shows what the sampler does.
"""

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rlbook.lm.sampling import restrict
from rlbook.show.plots import BLUE, ORANGE, panels, styled
from rlbook.show.widgets import controlled_figure

PADDING, TOKEN = "#d0d0d0", "#cfe5f3"


@styled
def draw_next_token(
    logits: Float[Tensor, " V"],
    names: Sequence[str],
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> tuple[Figure, str]:
    """One token's distribution, likeliest first: at this temperature, and what is drawn from.

    Grey: the softmax at the temperature. Blue: what top-k and top-p leave of it, with sum 1.
    A small mark: the probability at temperature 1.

    Args:
        names: what to write for each token [V].

    Returns:
        The figure; and how many tokens are kept, their mass before the cut, and the entropy of
        what is drawn from, in nats.
    """
    ax = panels(1, width=max(4.0, 1.4 + 0.36 * len(names)), height=3.2)[1][0] if ax is None else ax
    before, kept, after = heated_and_cut(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    order = np.argsort(-logits.numpy(), kind="stable")
    x = np.arange(len(order))
    ax.bar(x, before[order], width=0.84, color=PADDING, label="at this temperature")
    ax.bar(x, after[order], width=0.5, color=BLUE, label="drawn from")
    plain = logits.double().softmax(dim=-1).numpy()
    ax.plot(x, plain[order], "_", color=ORANGE, markersize=12, label="at temperature 1")
    ax.set_xticks(x, [names[i] for i in order])
    ax.set(xlabel="token", ylabel="probability", ylim=(0.0, 1.02), title=title)
    ax.legend(loc="upper right")
    words = (
        f"kept {kept.sum()} of {len(kept)} tokens, mass {before[kept].sum():.3f}; "
        f"entropy {entropy(after):.3f} nats"
    )
    return ax.figure, words


def heated_and_cut(
    logits: Float[Tensor, " V"],
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> tuple[Float[np.ndarray, " V"], Bool[np.ndarray, " V"], Float[np.ndarray, " V"]]:
    """Probabilities at the temperature, which tokens are kept, and probabilities after the cut."""
    z = logits.double() / temperature
    allowed = restrict(z, top_k=top_k, top_p=top_p)
    kept = allowed > float("-inf")
    return z.softmax(dim=-1).numpy(), kept.numpy(), allowed.softmax(dim=-1).numpy()


def entropy(p: Float[np.ndarray, " V"]) -> float:
    """-Σ p log p in nats; what has probability 0 adds nothing."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum()) + 0.0  # + 0.0 turns -0.0 into 0.0


def next_token_sliders(
    places: Mapping[str, Float[Tensor, " V"]], names: Sequence[str]
) -> ipywidgets.Widget:
    """Sliders for temperature, top-k and top-p, on the next token after one of several texts.

    Args:
        places: text → the logits [V] of what comes next.
        names: what to write for each token [V].
    """

    def draw(text: str, temperature: float, top_k: int, top_p: float) -> tuple[Figure, str]:
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return draw_next_token(places[text], names, **settings)

    V, still = len(names), {"continuous_update": False}
    return controlled_figure(
        draw,
        text=ipywidgets.Dropdown(options=list(places), description="after"),
        temperature=ipywidgets.FloatSlider(
            value=1.0, min=0.1, max=3.0, step=0.1, description="τ", **still
        ),
        top_k=ipywidgets.IntSlider(value=V, min=1, max=V, description="top-k", **still),
        top_p=ipywidgets.FloatSlider(
            value=1.0, min=0.05, max=1.0, step=0.05, description="top-p", **still
        ),
    )


@styled
def plot_batch(
    tokens: Sequence[Sequence[str]],
    mask: Bool[Tensor, "B L"],
    positions: Mapping[str, Tensor],
    *,
    title: str = "",
) -> Figure:
    """A padded batch as boxes: grey is padding; below each token its position, one way per panel.

    Args:
        tokens: what stands in each cell, B rows of L.
        positions: name → position ids [B, L].
    """
    B, L = mask.shape
    fig, axes = panels(len(positions), columns=1, width=1.2 + 0.55 * L, height=0.75 + 0.55 * B)
    for ax, (name, numbers) in zip(axes, positions.items(), strict=True):
        for b in range(B):
            for column in range(L):
                real = bool(mask[b, column])
                ax.fill(
                    column + np.array([-0.46, 0.46, 0.46, -0.46]),
                    b + np.array([-0.44, -0.44, 0.44, 0.44]),
                    color=TOKEN if real else PADDING,
                )
                word = tokens[b][column] if real else "·"
                ax.text(column, b - 0.14, word, ha="center", va="center", weight="bold")
                if real:
                    number = str(int(numbers[b, column]))
                    ax.text(column, b + 0.25, number, ha="center", va="center", size=8)
        ax.set(xlim=(-0.6, L - 0.4), ylim=(B - 0.4, -0.6), title=name)
        ax.set_xticks(range(L)), ax.set_yticks([])
        ax.tick_params(length=0, labelsize=8, colors="#777777")
        ax.spines[:].set_visible(False)
    axes[-1].set_xlabel("column")
    if title:
        fig.suptitle(title)
    return fig
