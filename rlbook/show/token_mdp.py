"""Pictures of a small language model: the tree of its texts, with the value of every prefix.

A disc is a prefix, a square a whole response. Colour is value (of a square: its reward); the width
of a line is the probability that a text passes along it. So a policy that improves is seen as a
stream that turns towards the bright end.
"""

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rlbook.lm.exact import expected_reward, prefix_values
from rlbook.lm.tabular_lm import TabularLM
from rlbook.show.plots import panels, styled
from rlbook.show.widgets import controlled_figure

THINNEST, THICKEST = 0.6, 11.0  # line widths for probability 0 and 1, in points


def tree_layout(model: TabularLM) -> dict[tuple[int, ...], tuple[float, float]]:
    """Where every prefix and response of a prompt stands: x its length, y from top to bottom.

    Responses stand one below the other, in the order of their tokens; a prefix stands in the
    middle of what follows it.
    """
    space = model.space
    places = {y: (float(len(y)), float(row)) for row, y in enumerate(space.responses)}
    for prefix in reversed(space.prefixes):  # the longest first
        rows = [places[(*prefix, token)][1] for token in range(space.vocab_size)]
        places[prefix] = (float(len(prefix)), (rows[0] + rows[-1]) / 2)
    return places


@styled
def plot_tree(
    model: TabularLM,
    rewards: Float[Tensor, " M"],
    words: Sequence[str],
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw all the texts of a model with one prompt, and the value of every prefix.

    Args:
        rewards: R of every response [M], in the order of ``enumerate_responses``, within [0, 1].
        words: what to write for each token [V].
    """
    ax = panels(1, width=6.4, height=6.0)[1][0] if ax is None else ax
    places = tree_layout(model)
    with torch.no_grad():
        V, _ = prefix_values(model, rewards)
        pi = torch.softmax(model.table, dim=-1)
    reach = {(): 1.0}
    for s, prefix in enumerate(model.space.prefixes):
        for token, word in enumerate(words):
            text = (*prefix, token)
            reach[text] = reach[prefix] * float(pi[s, token])
            _edge(ax, places[prefix], places[text], reach[text], word)
    for s, prefix in enumerate(model.space.prefixes):
        _disc(ax, places[prefix], float(V[s]))
    for text, reward in zip(model.space.responses, rewards.tolist(), strict=True):
        x, y = places[text]
        ax.scatter(x, y, s=70, marker="s", color=plt.cm.viridis(reward), zorder=3)
        ax.text(x + 0.09, y, f"{reward:.2g}", va="center", size=9)
    last = model.space.max_new_tokens
    ax.set(xlim=(-0.3, last + 0.4), ylim=(len(model.space.responses) - 0.4, -0.6), title=title)
    ax.set_xticks(range(last + 1))
    ax.set_xlabel("tokens written")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    return ax.figure


def _edge(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], chance: float, word: str
) -> None:
    width = THINNEST + (THICKEST - THINNEST) * chance
    (x0, y0), (x1, y1) = start, end
    ax.plot([x0, x1], [y0, y1], color="#b0b0b0", linewidth=width, zorder=1, solid_capstyle="round")
    place = 0.62
    ax.text(
        x0 + place * (x1 - x0), y0 + place * (y1 - y0), word, size=9, ha="center", va="center",
        zorder=2, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
    )  # fmt: skip


def _disc(ax: Axes, place: tuple[float, float], value: float) -> None:
    ink = "white" if value < 0.55 else "black"
    ax.scatter(*place, s=620, color=plt.cm.viridis(value), zorder=3)
    ax.text(*place, f"{value:.2f}", color=ink, size=8, ha="center", va="center", zorder=4)


# --- moving the policy -----------------------------------------------------------------------


def policy_drawing(
    model: TabularLM,
    rewards: Float[Tensor, " M"],
    words: Sequence[str],
    logits: dict[str, tuple[tuple[int, ...], int]],
) -> Callable[..., tuple[Figure, str]]:
    """A function that draws the tree after some logits and the temperature have been set.

    Args:
        logits: name → (prefix, token): which entry of the table a number of that name sets.
    """

    def draw(temperature: float, **settings: float) -> tuple[Figure, str]:
        table = model.table.detach().clone()
        for name, value in settings.items():
            prefix, token = logits[name]
            table[model.space.prefixes.index(prefix), token] = value
        moved = model.like(table / temperature)
        fig = plot_tree(moved, rewards, words)
        J = expected_reward(moved, rewards).item()
        return fig, f"temperature {temperature:.2f}: J = V(nothing written) = {J:.3f}"

    return draw


def policy_sliders(
    model: TabularLM,
    rewards: Float[Tensor, " M"],
    words: Sequence[str],
    logits: dict[str, tuple[tuple[int, ...], int]],
) -> ipywidgets.Widget:
    """Sliders for the temperature and for some logits; the tree and its values follow them.

    Args:
        logits: as for ``policy_drawing``; a logit's slider begins at its value in the table.
    """

    def slider(name: str, value: float, low: float, high: float) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=0.1, description=name, continuous_update=False,
            style={"description_width": "initial"},
        )  # fmt: skip

    controls = {"temperature": slider("temperature", 1.0, 0.1, 3.0)}
    for name, (prefix, token) in logits.items():
        now = model.table[model.space.prefixes.index(prefix), token].item()
        controls[name] = slider(name, now, -4.0, 4.0)
    return controlled_figure(policy_drawing(model, rewards, words, logits), **controls)


# --- watching it learn -----------------------------------------------------------------------


def draw_moment(
    model: TabularLM,
    tables: Sequence[Float[Tensor, "S V"]],
    rewards: Float[Tensor, " M"],
    words: Sequence[str],
    *,
    moment: int,
) -> tuple[Figure, str]:
    """The tree of the table that training had reached at one of the moments kept."""
    now = model.like(tables[moment])
    fig = plot_tree(now, rewards, words)
    J = expected_reward(now, rewards).item()
    return fig, f"moment {moment} of {len(tables) - 1}: J = {J:.3f}"


def training_slider(
    model: TabularLM,
    tables: Sequence[Float[Tensor, "S V"]],
    rewards: Float[Tensor, " M"],
    words: Sequence[str],
) -> ipywidgets.Widget:
    """Step through the tables kept during a training run, and see the tree change."""
    slider = ipywidgets.IntSlider(value=0, min=0, max=len(tables) - 1, description="moment")

    def draw(moment: int) -> tuple[Figure, str]:
        return draw_moment(model, tables, rewards, words, moment=moment)

    return controlled_figure(draw, moment=slider)
