"""Chapter 18's figures and the functions behind its widget."""

import math

import matplotlib.pyplot as plt
import pytest

from rlbook.checks.grpo import prompt_weight
from rlbook.show.grpo import (
    SHADES,
    draw_group,
    expected_weight,
    group_sliders,
    plot_batch_loop,
    plot_weights,
)


def test_every_response_has_its_mini_batchs_colour_and_its_micro_batchs_letter():
    minis, micros = [[2, 3], [0, 1]], [[2, 3], [1], [0]]
    fig = plot_batch_loop(2, 2, minis, micros)
    ax = fig.axes[0]
    squares = [patch for patch in ax.patches if patch.get_width() == 1]
    colours = [plt.matplotlib.colors.to_hex(patch.get_facecolor()) for patch in squares]
    assert colours == [SHADES[1], SHADES[1], SHADES[0], SHADES[0]]
    assert [text.get_text() for text in ax.texts] == ["c", "b", "a", "a"]
    plt.close(fig)


def test_a_response_that_is_left_out_is_refused():
    with pytest.raises(ValueError, match="mini-batches do not hold each of the 4"):
        plot_batch_loop(2, 2, [[0, 1], [2]], [[0, 1, 2, 3]])
    plt.close("all")


def test_weights_are_the_exercises_and_one_for_leave_one_out():
    for p, K in ((0.1, 8), (0.5, 4), (0.9, 3)):
        assert expected_weight(p, K, "GRPO") == pytest.approx(prompt_weight(p, K), rel=1e-3)  # ε
        assert expected_weight(p, K, "RLOO") == pytest.approx(1.0, abs=1e-12)
        assert expected_weight(p, K, "Dr. GRPO") == pytest.approx((K - 1) / K, abs=1e-12)
    with pytest.raises(ValueError, match="'PPO' is not one of GRPO"):
        expected_weight(0.5, 4, "PPO")


def test_groups_of_two_and_three_weigh_every_prompt_alike():
    for K in (2, 3):
        weights = {round(expected_weight(p, K, "GRPO"), 3) for p in (0.05, 0.5, 0.9)}
        assert len(weights) == 1
    fig = plot_weights([2, 8])
    assert [line.get_label() for line in fig.axes[0].lines][-1] == "RLOO"
    plt.close(fig)


def test_the_picture_follows_the_controls():
    fig, words = draw_group(K=4, right=1)
    assert "Dr. GRPO 0.75, RLOO 1.00" in words and "1 of 4" in words
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert heights[:4] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    plt.close(fig)
    fig, words = draw_group(K=4, right=9)  # more than there are: all
    assert "4 of 4 right: no spread" in words
    assert all(math.isclose(bar.get_height(), 0.0) for bar in fig.axes[0].patches)
    plt.close(fig)
    widget = group_sliders()
    before = widget.children[-1].value
    widget.children[1].value = 5
    assert widget.children[-1].value != before and "5 of 8" in widget.children[-2].value


def test_no_more_right_responses_than_the_group_has():
    """The second slider ends at K: none of its positions does nothing."""
    size, solved, words, _ = group_sliders(K=8, right=6).children
    assert solved.max == 8
    size.value = 4
    assert (solved.max, solved.value) == (4, 4) and "4 of 4 right" in words.value
    size.value = 12
    solved.value = 12
    assert "12 of 12 right" in words.value
