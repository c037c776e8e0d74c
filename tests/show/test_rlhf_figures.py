"""Chapter 17's figures: what is drawn is what was given; the widget's numbers by hand."""

import numpy as np
import pytest
from ipywidgets import FloatSlider

from rlbook.report import StepReport
from rlbook.show.rlhf import (
    BOXES,
    credit,
    credit_sliders,
    draw_credit,
    plot_before_after,
    plot_ledger,
    plot_log,
    plot_memory,
    plot_models,
    plot_score_over_kl,
)

TOKENS = ["a", "b", "∎"]
RESPONSE = {"log_ratios": [1.0, -2.0, 0.0], "values": [0.5, 1.0, 2.0], "score": 3.0}


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_picture_has_every_model() -> None:
    shown = words(plot_models().axes[0])
    assert {box[2] for box in BOXES.values()} <= set(shown)
    assert sum("frozen" in text for text in shown) == 2
    assert sum("trained" in text for text in shown) == 2


def test_a_ledger_writes_every_number_and_colours_each_row_by_itself() -> None:
    ax = plot_ledger(TOKENS, {"price": [0.1, -0.2, 0.0], "A": [5.0, 10.0, float("nan")]}).axes[0]
    assert words(ax) == ["0.10", "-0.20", "0.00", "5.00", "10.00"]
    shares = ax.images[0].get_array()
    np.testing.assert_allclose(shares[0], [0.5, -1.0, 0.0])
    np.testing.assert_allclose(shares[1, :2], [0.5, 1.0])
    with pytest.raises(ValueError, match="row 'V' has 2 numbers for 3 tokens"):
        plot_ledger(TOKENS, {"V": [1.0, 2.0]})


def test_credit_by_hand() -> None:
    """β = ½: rewards -½, 1, 3. V = ½, 1, 2, 0: errors 0, 2, 1. λ = ½: A = 1.25, 2.5, 1."""
    found = credit(**RESPONSE, lam=0.5, beta=0.5)
    assert found["reward"] == pytest.approx([-0.5, 1.0, 3.0])
    assert found["advantage"] == pytest.approx([1.25, 2.5, 1.0])


def test_the_widget_draws_what_it_says() -> None:
    fig, line = draw_credit(TOKENS, **RESPONSE, lam=0.5, beta=0.5)
    assert line == ("λ 0.50, β 0.50: sum of rewards 3.50; lowest advantage 1.00 at token 3, '∎'")
    assert words(fig.axes[0]).count("2.50") == 1


def test_the_sliders_move_the_picture() -> None:
    box = credit_sliders(TOKENS, **RESPONSE)
    label, image = box.children[-2:]
    before, text = image.value, label.value
    sliders = [child for child in box.children if isinstance(child, FloatSlider)]
    assert [slider.description for slider in sliders] == ["λ", "β"]
    for slider in sliders:
        slider.value = 0.3
        assert label.value != text and image.value != before
        before, text = image.value, label.value


def test_a_log_has_a_panel_for_each_metric() -> None:
    runs = {
        name: [StepReport(u, u, {"reward": slope * u, "kl": 1.0}) for u in (1, 2, 3)]
        for name, slope in (("one", 1.0), ("two", 2.0))
    }
    axes = plot_log(runs, ["reward", "kl"]).axes
    assert [ax.get_title() for ax in axes[:2]] == ["reward", "kl"]
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), [2.0, 4.0, 6.0])


def test_before_and_after_are_means_over_seeds() -> None:
    pairs = np.array([[0.2, 0.6], [0.4, 0.8], [0.3, 0.7]])
    ax = plot_before_after({"greedy": {"arm": pairs}}).axes[0]
    assert [line.lines[0].get_xdata()[0] for line in ax.containers] == pytest.approx([0.3, 0.7])


def test_scores_lie_over_their_mean_kl() -> None:
    kl = {"arm": np.array([[0.0, 2.0], [0.0, 4.0]])}
    scores = {"learned": {"arm": np.array([[0.0, 1.0], [0.0, 2.0]])}}
    ax = plot_score_over_kl(kl, scores).axes[0]
    line = ax.containers[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [0.0, 3.0])
    np.testing.assert_allclose(line.get_ydata(), [0.0, 1.5])
    assert ax.get_title() == "learned"


def test_bars_stack_to_their_sum() -> None:
    ax = plot_memory({"all": {"weights": 1.0, "Adam": 2.5}, "few": {"weights": 1.0, "Adam": 0.0}})
    ax = ax.axes[0]
    assert words(ax) == [" 3.5", " 1.0"]
    assert [bar.get_width() for bar in ax.patches] == [1.0, 1.0, 2.5, 0.0]
