"""Chapter 20's figures and the function behind its widget."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlbook.show.credit import (
    draw_trade_off,
    plot_accuracy_over,
    plot_noise,
    plot_step_map,
    plot_values,
    spent,
    trade_off_sliders,
)
from rlbook.studies.exact_credit import compared, with_group, with_rollouts, world

TOKENS = list("2+3=5;5*4=9.")


def test_each_steps_first_number_stands_in_it_and_the_wrong_step_is_framed():
    rows = {"a": [0.25] * 6 + [-0.5] * 6, "b": [0.0] * 12}
    fig = plot_step_map(TOKENS, rows, starts=[0, 6], wrong=1)
    ax = fig.axes[0]
    assert [text.get_text() for text in ax.texts] == ["0.25", "-0.50", "0.00", "0.00"]
    (frame,) = ax.patches
    assert (frame.get_x(), frame.get_width(), frame.get_height()) == (5.5, 6, 2)
    low, high = ax.images[0].get_clim()
    assert (low, high) == (-0.5, 0.5)
    plt.close(fig)
    fig = plot_step_map(TOKENS, {"p": [0.5] * 12}, starts=[0, 6], signed=False)
    assert fig.axes[0].images[0].get_clim() == (0, 1) and not fig.axes[0].patches
    plt.close(fig)
    with pytest.raises(ValueError, match="row 'a' has 2 numbers for 12 tokens"):
        plot_step_map(TOKENS, {"a": [1.0, 2.0]}, starts=[0, 6])


def test_values_are_stairs_over_the_tokens():
    fig = plot_values(TOKENS, {"V": [0.5] * 12, "W": [0.25] * 12}, starts=[0, 6], wrong=0)
    ax = fig.axes[0]
    assert [line.get_drawstyle() for line in ax.lines[:2]] == ["steps-mid"] * 2
    assert [line.get_ydata()[0] for line in ax.lines[:2]] == [0.5, 0.25]
    (shade,) = ax.patches
    assert (shade.get_x(), shade.get_width()) == (-0.5, 6) and ax.get_ylim()[1] > 1
    plt.close(fig)


def test_bias_in_percent_and_noise_over_the_horizon():
    found = [compared(world(T), group=2) for T in (1, 2)]
    fig = plot_noise([1, 2], found, ["RLOO", "PPO, λ = 0"])
    left, right = fig.axes
    assert left.lines[1].get_ydata()[1] == pytest.approx(100 * found[1]["PPO, λ = 0"].bias)
    assert right.lines[0].get_ydata()[0] == pytest.approx(found[0]["RLOO"].deviation)
    plt.close(fig)


def test_the_picture_follows_the_controls():
    same = {"kind": "one step decides", "error": 0.11}
    fig, words = draw_trade_off(K=3, T=6, price=0.0, **same)
    w = world(6)
    ours = with_rollouts(w, rollouts=3, group=8)
    assert f"generates {ours.tokens / 48:.1f} tokens" in words
    assert fig.axes[0].lines[0].get_ydata()[5] == pytest.approx(ours.deviation)
    cost = fig.axes[1].lines[1].get_ydata()[5]  # RLOO learns from all that it generates
    assert cost == pytest.approx(with_group(w, "RLOO", group=8).deviation)
    plt.close(fig)
    assert spent(ours, 6, 8, 2.0) == pytest.approx(ours.tokens + 96)
    _, words = draw_trade_off(K=32, T=6, price=0.0, **same)
    assert "least noise: VinePPO, K = 32; for equal cost: PPO, λ = 1" in words
    _, words = draw_trade_off(K=32, T=6, price=0.0, kind="one step decides", error=0.5)
    assert "for equal cost: RLOO" in words
    other = {"kind": "every step counts", "error": 0.11}
    fig, words = draw_trade_off(K=32, T=6, price=8.0, **other)
    rloo = with_group(world(6, other["kind"]), "RLOO", group=8)
    assert fig.axes[0].lines[1].get_ydata()[5] == pytest.approx(rloo.deviation)
    assert fig.axes[1].lines[1].get_ydata()[5] == pytest.approx(rloo.deviation * 3)  # 1 + 8
    plt.close("all")


def test_the_sliders_draw():
    widget = trade_off_sliders()
    before = widget.children[-1].value
    widget.children[1].value = 9
    assert widget.children[-1].value != before and "K = 9" in widget.children[-2].value
    plt.close("all")


def test_accuracy_is_drawn_over_everything_that_is_spent():
    accuracy = {"A": np.array([[0.2, 0.6], [0.4, 0.8]]), "B": np.array([[0.3, 0.3], [0.3, 0.5]])}
    steps = {arm: np.array([[0.0, 10.0]] * 2) for arm in accuracy}
    tokens = {"A": np.array([[0.0, 4.0], [0.0, 6.0]]), "B": np.array([[0.0, 1.0]] * 2)}
    fig = plot_accuracy_over(accuracy, {"steps": steps, "tokens": tokens})
    left, right = fig.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("steps", "tokens")
    lines = [bars.lines[0] for bars in right.containers]
    assert lines[0].get_xdata().tolist() == [0.0, 5.0]
    assert lines[0].get_ydata() == pytest.approx([0.3, 0.7])
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["A", "B"]
    plt.close(fig)
