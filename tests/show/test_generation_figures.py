import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from rlbook.lm.batch import position_ids
from rlbook.show.generation import (
    draw_next_token,
    entropy,
    heated_and_cut,
    next_token_sliders,
    plot_batch,
)

FOUR = torch.tensor([0.25, 0.5, 0.1, 0.15], dtype=torch.float64).log()
NAMES = ["b", "a", "d", "c"]


def test_heat_and_cut_by_hand() -> None:
    # τ = ½ squares the odds: 0.0625, 0.25, 0.01, 0.0225 of 0.345
    before, kept, after = heated_and_cut(FOUR, temperature=0.5, top_k=3, top_p=0.9)
    np.testing.assert_allclose(before, np.array([0.0625, 0.25, 0.01, 0.0225]) / 0.345)
    np.testing.assert_array_equal(kept, [True, True, False, False])  # 0.3125 of 0.335 is 0.93
    np.testing.assert_allclose(after, [0.2, 0.8, 0.0, 0.0])


def test_without_a_cut_the_distribution_stays() -> None:
    before, kept, after = heated_and_cut(FOUR, temperature=1.0)
    np.testing.assert_allclose(before, FOUR.exp())
    np.testing.assert_allclose(after, before)
    assert kept.all()


def test_entropy_by_hand() -> None:
    assert entropy(np.array([0.5, 0.25, 0.25, 0.0])) == pytest.approx(1.5 * np.log(2.0))
    assert entropy(np.array([1.0, 0.0])) == 0.0


def test_the_bars_stand_from_the_likeliest_down_and_the_words_count() -> None:
    fig, words = draw_next_token(FOUR, NAMES, temperature=1.0, top_k=3, top_p=0.8)
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c", "d"]
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights[:4], [0.5, 0.25, 0.15, 0.1])
    np.testing.assert_allclose(heights[4:], [2 / 3, 1 / 3, 0.0, 0.0])
    # entropy: 2/3 log 3/2 + 1/3 log 3 = 0.637
    assert words == "kept 2 of 4 tokens, mass 0.750; entropy 0.637 nats"
    plt.close(fig)


def test_the_sliders_draw() -> None:
    box = next_token_sliders({"one": FOUR, "two": -FOUR}, NAMES)
    dropdown, temperature, top_k, top_p, line, image = box.children
    assert line.value == "kept 4 of 4 tokens, mass 1.000; entropy 1.208 nats"
    for control, value in ((temperature, 0.5), (top_k, 2), (top_p, 0.4), (dropdown, "two")):
        before = image.value
        control.value = value
        assert image.value != before
    assert line.value.startswith("kept 1 of 4 tokens, mass 0.6")


def test_a_batch_shows_tokens_and_both_ways_to_number_them() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    tokens = [["x", "x", "4", "="], ["1", "+", "2", "="]]
    columns = torch.arange(4).expand(2, 4)
    fig = plot_batch(tokens, mask, {"columns": columns, "tokens": position_ids(mask)})
    first, second = ([text.get_text() for text in ax.texts] for ax in fig.axes)
    assert first == ["·", "·", "4", "2", "=", "3", "1", "0", "+", "1", "2", "2", "=", "3"]
    assert second == ["·", "·", "4", "0", "=", "1", "1", "0", "+", "1", "2", "2", "=", "3"]
    assert [ax.get_title() for ax in fig.axes] == ["columns", "tokens"]
    plt.close(fig)
