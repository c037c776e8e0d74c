"""Chapter 15's figures and the function behind its widget."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlbook.posttrain.rejection import best_of_n_kl_bound
from rlbook.show.rejection_sampling import (
    ANSWERS,
    FATES,
    best_of_n_sliders,
    draw_best_of_n,
    plot_sieve,
    toy_best_of_n,
    toy_rewards,
)


def test_every_sample_has_the_colour_of_its_fate():
    fates = [["kept", "dropped", "repeat"], ["dropped", "dropped", "kept"]]
    fig = plot_sieve(fates, ["1+1=", "2*2="])
    ax = fig.axes[0]
    squares = [p for p in ax.patches if p.get_width() == 1]
    colours = [plt.matplotlib.colors.to_hex(p.get_facecolor()) for p in squares]
    assert colours == [FATES[f].lower() for row in fates for f in row]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1+1=", "2*2="]
    plt.close(fig)


def test_an_unknown_fate_is_refused():
    with pytest.raises(ValueError, match="lost"):
        plot_sieve([["lost"]], ["1="])
    plt.close("all")


def test_the_toys_best_of_n_is_the_formula():
    best, kl = toy_best_of_n(ANSWERS, 3)
    F = np.arange(1, ANSWERS + 1) / ANSWERS
    np.testing.assert_allclose(best, F**3 - (F - 1 / ANSWERS) ** 3, atol=1e-12)
    assert kl == pytest.approx((best * np.log(best * ANSWERS)).sum(), abs=1e-12)
    assert kl < best_of_n_kl_bound(3)


def test_two_rewards_end_at_log_two():
    assert toy_best_of_n(2, 200)[1] == pytest.approx(math.log(2), abs=1e-9)
    assert toy_best_of_n(2, 1)[1] == 0.0
    assert toy_rewards(3).tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    with pytest.raises(ValueError, match="levels=1"):
        toy_rewards(1)


def test_the_picture_follows_the_controls():
    fig, words = draw_best_of_n(n=4, levels=12)
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    np.testing.assert_allclose(heights, toy_best_of_n(12, 4)[0])
    assert words == f"n = 4, 12 different rewards: KL {toy_best_of_n(12, 4)[1]:.3f}, bound 0.636"
    plt.close(fig)
    widget = best_of_n_sliders()
    before = widget.children[-1].value
    widget.children[0].value = 16
    assert widget.children[-1].value != before and "n = 16" in widget.children[-2].value
