"""Pictures of a GPT-2: who looks at whom, where its parameters are, and attention heads at work.

The attention weights are those of the model itself: a test compares them with transformers'.
"""

from collections.abc import Mapping, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from rlbook.lm import gpt2
from rlbook.lm.policy import Policy
from rlbook.show.plots import BLUE, GREEN, ORANGE, SKY, STYLE, panels
from rlbook.show.widgets import controlled_figure

WHITESPACE = {" ": "␣", "\n": "⏎"}


@torch.no_grad()
def attention_weights(policy: Policy, text: str) -> tuple[Float[np.ndarray, "n h L L"], list[str]]:
    """The weights of each layer and head on a text, and the tokens as they are shown.

    weights[layer, head, i, j] is how much position i takes of position j: 0 for j > i, and each
    row sums to 1.
    """
    (ids,) = policy.encode([text])
    body = policy.model.transformer
    L = len(ids)
    x = body.wte(torch.tensor(ids)) + body.wpe(torch.arange(L))
    future = torch.ones(L, L).triu(1).bool()
    found = []
    for block in body.h:
        read = block.ln_1(x)
        query, key, _ = gpt2.linear(block.attn.c_attn, read).chunk(3, dim=-1)
        query, key = (z.view(L, -1, block.attn.head_dim).transpose(0, 1) for z in (query, key))
        scores = query @ key.transpose(1, 2) / block.attn.head_dim**0.5
        found.append(scores.masked_fill(future, float("-inf")).softmax(dim=-1))
        x = x + gpt2.attention(block.attn, read[None], "causal")[0]
        x = x + gpt2.mlp(block.mlp, block.ln_2(x))
    tokens = policy.tokenizer.convert_ids_to_tokens(ids)
    return torch.stack(found).numpy(), [WHITESPACE.get(token, token) for token in tokens]


def draw_attention(
    weights: Float[np.ndarray, "n h L L"],
    tokens: Sequence[str],
    *,
    layer: int,
    head: int,
    row: int | None = None,
) -> tuple[Figure, str]:
    """One head's weights, layers and heads counted from 1; ``row`` is a position to mark.

    The words name the position that the marked one looks at most (default: the last one).
    """
    chosen = weights[layer - 1, head - 1]
    row = len(tokens) - 1 if row is None else row
    with plt.rc_context(STYLE):
        size = 1.4 + 0.2 * len(tokens)
        fig, (ax,) = panels(1, width=size, height=size)
        _map(ax, chosen, tokens)
        corner = (-0.5, row - 0.5)
        ax.add_patch(plt.Rectangle(corner, len(tokens), 1, fill=False, color=ORANGE, linewidth=2))
        ax.set_title(f"layer {layer}, head {head}")
    most = int(chosen[row].argmax())
    return fig, (
        f"layer {layer}, head {head}: position {row} ({tokens[row]!r}) looks most at position "
        f"{most} ({tokens[most]!r}), weight {chosen[row, most]:.2f}"
    )


def draw_masks(L: int) -> Figure:
    """What each position may look at in GPT-2, and in an encoder."""
    masks = {"GPT-2: causal": np.tril(np.ones((L, L))), "an encoder: everything": np.ones((L, L))}
    with plt.rc_context(STYLE):
        fig, axes = panels(2, width=3.6, height=3.4)
        for ax, (title, mask) in zip(axes, masks.items(), strict=True):
            _map(ax, mask, [str(i) for i in range(L)])
            ax.set_title(title)
    return fig


def _map(ax: Axes, weights: Float[np.ndarray, "L L"], tokens: Sequence[str]) -> None:
    L = len(tokens)
    ax.imshow(weights, cmap="viridis", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set_xticks(range(L), tokens), ax.set_yticks(range(L), tokens)
    ax.tick_params(length=0, labelsize=9)
    ax.set(xlabel="position looked at", ylabel="position that looks")
    ax.spines[:].set_visible(False)


def attention_sliders(policy: Policy, text: str) -> ipywidgets.Widget:
    """Sliders for the layer, the head and the position that looks."""
    weights, tokens = attention_weights(policy, text)
    layers, heads = weights.shape[:2]

    def draw(layer: int, head: int, row: int) -> tuple[Figure, str]:
        return draw_attention(weights, tokens, layer=layer, head=head, row=row)

    def slider(name: str, value: int, low: int, high: int) -> ipywidgets.IntSlider:
        return ipywidgets.IntSlider(value=value, min=low, max=high, description=name)

    last = len(tokens) - 1
    return controlled_figure(
        draw,
        layer=slider("layer", layers, 1, layers),
        head=slider("head", 1, 1, heads),
        row=slider("position", last, 0, last),
    )


def parameter_parts(model: nn.Module) -> dict[str, int]:
    """Where the parameters of a GPT2LMHeadModel are; the tied head counts as the embedding."""
    kinds = {
        "token embedding": ".wte.",
        "positions": ".wpe.",
        "attention": ".attn.",
        "MLP": ".mlp.",
    }
    parts = dict.fromkeys([*kinds, "layer norms"], 0)
    for name, parameter in model.named_parameters():
        kind = next((kind for kind, mark in kinds.items() if mark in name), "layer norms")
        parts[kind] += parameter.numel()
    return parts


def draw_parameters(models: Mapping[str, Mapping[str, int]]) -> Figure:
    """For each model (name → ``parameter_parts``) the shares of its parts, as a bar.

    Layer norms are too few to be seen and are left out.
    """
    shown = {"token embedding": SKY, "positions": GREEN, "attention": ORANGE, "MLP": BLUE}
    with plt.rc_context(STYLE):
        fig, (ax,) = panels(1, width=7.4, height=0.9 + 0.45 * len(models))
        left = np.zeros(len(models))
        totals = np.array([sum(parts.values()) for parts in models.values()])
        for kind, colour in shown.items():
            share = np.array([parts[kind] for parts in models.values()]) / totals
            ax.barh(range(len(models)), share, left=left, color=colour, label=kind)
            left += share
        ax.set_yticks(range(len(models)), list(models))
        ax.invert_yaxis()
        ax.set(xlabel="share of the parameters", xlim=(0.0, 1.0))
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig
