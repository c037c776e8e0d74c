"""Chapter 19's figures and the function behind its widget."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlbook.show.dpo import (
    draw_pair_loss,
    pair_curves,
    pair_loss_sliders,
    plot_answer_plane,
    plot_pair_loss,
)


def test_curves_of_a_pair_by_hand():
    h = np.array([0.0, math.log(3.0)])
    curves = pair_curves(h, beta=1.0, smoothing=0.25)
    np.testing.assert_allclose(curves["DPO"][0], [math.log(2), math.log(4 / 3)], atol=1e-12)
    np.testing.assert_allclose(curves["DPO"][1], [0.5, 0.25], atol=1e-12)  # β σ(-β h)
    # a quarter of the labels flipped: odds of 3 are just right, the weight is 0 there
    np.testing.assert_allclose(curves["smoothed"][1], [0.25, 0.0], atol=1e-12)
    np.testing.assert_allclose(curves["IPO"][0], (h - 0.5) ** 2, atol=1e-12)
    np.testing.assert_allclose(curves["IPO"][1], -2 * (h - 0.5), atol=1e-12)
    assert "smoothed" not in pair_curves(h, beta=1.0)


def test_the_figure_has_a_curve_for_each_loss_and_the_mark():
    fig = plot_pair_loss(beta=0.1, smoothing=0.1, ipo=True, mark=5.0)
    loss, weight = fig.axes
    assert len(loss.lines) == 4 and len(weight.lines) == 4
    (x,), (y,) = weight.lines[-1].get_data()
    assert x == 5.0 and y == pytest.approx(0.1 / (1 + math.exp(0.5)))
    plt.close(fig)


def test_the_widget_follows_its_controls():
    fig, words = draw_pair_loss(beta=0.1, h=10.0, smoothing=0.0)
    assert words == "β h = 1.00: P(chosen ≻ rejected) = 0.731; DPO: loss 0.313, weight 0.0269"
    plt.close(fig)
    # a fifth of the labels flipped, β h = log 4: nothing left to learn
    fig, words = draw_pair_loss(beta=1.0, h=math.log(4.0), smoothing=0.2)
    assert words.endswith("DPO: loss 0.223, weight 0.2000; smoothed: loss 0.500, weight 0.0000")
    plt.close(fig)
    widget = pair_loss_sliders()
    before = widget.children[-1].value
    widget.children[1].value = 20.0
    assert widget.children[-1].value != before and "β h = 2.00" in widget.children[-2].value


def test_answers_in_a_plane():
    rows = np.array([[-1.0, 0.2], [-1.2, 1.0], [1.0, -0.5]])
    fig = plot_answer_plane(
        rows, ["no", "never", "yes"], {"no - never": (0, 1), "no - yes": (0, 2)}
    )
    ax = fig.axes[0]
    texts = {text.get_text() for text in ax.texts}
    assert {"no", "never", "yes", "no - never"} <= texts
    arrow = next(text for text in ax.texts if text.get_text() == "no - never")
    np.testing.assert_allclose(arrow.xy, [0.2, -0.8])
    assert ax.get_xlim()[0] < -2.0  # the longer arrow, from yes to no, is inside
    plt.close(fig)
