import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlbook.show.reward_model import (
    ceiling_of,
    choice_probability,
    choice_slider,
    draw_choices,
    plot_best_of_n,
    plot_calibration,
)


def test_odds_of_three_and_the_ceiling_by_hand() -> None:
    lead = np.log(3.0)
    assert choice_probability(lead, 1.0) == pytest.approx(0.75)
    assert choice_probability(-2 * lead, 2.0) == pytest.approx(0.25)
    # differences of either sign cost the same; equal replies are a coin
    assert ceiling_of([lead, -lead, 0.0], 1.0) == pytest.approx((0.75 + 0.75 + 0.5) / 3)


def test_choices_name_their_numbers() -> None:
    fig, words = draw_choices([1.0, -1.0], temperature=1.0)
    assert words == "temperature 1.0: one point better wins 0.73 of the time; noise ceiling 0.731"
    left, right = fig.axes
    assert left.lines[0].get_ydata()[80] == pytest.approx(0.5)
    heights = right.lines[0].get_ydata()
    assert (np.diff(heights) < 0).all()  # more noise, lower ceiling
    assert right.lines[1].get_xdata()[0] == 1.0
    plt.close(fig)


def test_the_slider_moves_the_words() -> None:
    box = choice_slider([1.0, 2.0])
    slider, label, image = box.children
    before, picture = label.value, image.value
    slider.value = 2.0
    assert label.value != before and "temperature 2.0" in label.value and image.value != picture


def test_calibration_is_drawn_bin_by_bin() -> None:
    fig = plot_calibration({"a": [(0.2, 0.3, 10), (0.8, 0.7, 30)]})
    ax = fig.axes[0]
    assert ax.lines[1].get_xdata().tolist() == [0.2, 0.8]
    assert ax.lines[1].get_ydata().tolist() == [0.3, 0.7]
    sizes = ax.collections[0].get_sizes()
    assert sizes[1] > sizes[0]
    plt.close(fig)


def test_best_of_n_shows_both_scores() -> None:
    learned = {"panel": np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 4.0]])}
    gold = learned | {"gold": np.ones((2, 3))}
    fig = plot_best_of_n(learned, gold, [1, 2, 4])
    assert [len(ax.lines) for ax in fig.axes] == [1, 2]
    assert fig.axes[0].lines[0].get_ydata().tolist() == [0.0, 1.0, 3.0]
    assert [t.get_text() for t in fig.axes[1].get_legend().texts] == ["panel", "gold"]
    plt.close(fig)
