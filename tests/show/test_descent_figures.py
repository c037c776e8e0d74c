"""Gradient descent on a bowl: the paths obey the formula, and the pictures show them."""

import ipywidgets
import numpy as np
import pytest

from rlbook.show import descent as show
from rlbook.show.plots import png_bytes


def test_two_steps_by_hand() -> None:
    # From (-4, 2): the gradient is (-4, 20), u = (0.4, -2), w = (-3.6, 0). There (-3.6, 0):
    # u = 0.5 (0.4, -2) + (0.36, 0) = (0.56, -1), w = (-3.04, -1).
    path = show.descent_path(rate=0.1, momentum=0.5, steps=2)
    np.testing.assert_allclose(path, [[-4, 2], [-3.6, 0], [-3.04, -1]], atol=1e-12)
    # ½ (1 · 16 + 10 · 4) = 28 and ½ (3.6²) = 6.48
    np.testing.assert_allclose(show.bowl(path)[:2], [28.0, 6.48], atol=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.19, 0.21])
def test_without_momentum_each_weight_shrinks_by_its_own_factor(rate: float) -> None:
    """w_k = (1 - α λ)^k w_0, so a rate above 2/λ grows without end."""
    path = show.descent_path(rate=rate, momentum=0.0, steps=30)
    factor = 1.0 - rate * np.array(show.CURVATURES)
    powers = factor ** np.arange(31)[:, None]
    np.testing.assert_allclose(path, powers * show.START, rtol=1e-12)
    assert (abs(path[-1, 1]) > abs(path[0, 1])) == (rate > 0.2)


@pytest.mark.parametrize(
    ("rate", "word"), [(0.1, "falls from 28 to 0.0017"), (0.25, "grows from 28 to 2.2e+08")]
)
def test_the_picture_says_how_it_ended(rate: float, word: str) -> None:
    # 0.1: ½ · 16 · 0.9^80 = 0.00175, as the second weight is 0 after one step.
    # 0.25: ½ · 10 · 4 · 1.5^80 = 2.2e15 after 40 steps; after 20 it is 20 · 1.5^40 = 2.2e8.
    fig, text = show.draw_descent(rate=rate, momentum=0.0, steps=40 if rate == 0.1 else 20)
    assert text.startswith(f"the loss {word}")
    path = show.descent_path(rate=rate, momentum=0.0, steps=40)
    line = fig.axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata()[:5], path[:5, 1], atol=1e-12)
    np.testing.assert_allclose(fig.axes[1].lines[0].get_ydata()[0], 28.0)
    png_bytes(fig)


def test_one_panel_for_each_path() -> None:
    paths = {f"rate {r}": show.descent_path(rate=r, momentum=0.0, steps=5) for r in (0.1, 5.0)}
    fig = show.plot_descents(paths)
    assert [ax.get_title() for ax in fig.axes] == list(paths)
    png_bytes(fig)


def test_the_sliders_move_the_picture() -> None:
    widget = show.descent_sliders()
    rate, _, text, image = widget.children
    before = image.value, text.value
    rate.value = 0.25
    assert image.value != before[0] and text.value != before[1] and "grows" in text.value
    assert isinstance(rate, ipywidgets.FloatSlider)
