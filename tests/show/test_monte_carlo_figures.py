"""Pictures of sampled estimates: what is drawn is what was computed."""

import io

import ipywidgets
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from PIL import Image

from rlbook.show import monte_carlo as pictures
from rlbook.show.plots import RED, png_bytes
from rlbook.tabular.mdp import MDP, uniform_policy


def coin() -> MDP:
    """State 0 leads to a state that pays 6 or to one that pays 2, evenly: V = 4, Var = 4."""
    P = np.zeros((4, 1, 4))
    P[0, 0, [1, 2]] = 0.5
    P[1:3, 0, 3] = P[3, 0, 3] = 1.0
    return MDP(P, np.array([[0.0], [6.0], [2.0], [0.0]]), np.arange(4) == 3)


def find(widget: ipywidgets.Widget, kind: type) -> list:
    inside = [w for child in getattr(widget, "children", ()) for w in find(child, kind)]
    return [widget, *inside] if isinstance(widget, kind) else inside


def heights(ax: Axes) -> list[float]:
    """The bars' heights: the shaded band is a rectangle too, and the last one."""
    (bars,) = ax.containers
    return [bar.get_height() for bar in bars]


# --- estimates -------------------------------------------------------------------------------


def test_bars_are_the_shares_of_the_estimates() -> None:
    # limits 0..4 in 40 bars of 0.1: 0.05 is in bar 0, 3.95 in bar 39; 9 is counted in the last
    estimates = np.array([0.05, 3.95, 9.0, 2.05])
    fig = pictures.plot_estimates(estimates, value=2.0, spread=0.5, limits=(0.0, 4.0))
    (ax,) = fig.axes
    drawn = heights(ax)
    assert len(drawn) == 40 and sum(drawn) == pytest.approx(100.0)
    assert (drawn[0], drawn[20], drawn[39]) == pytest.approx((25.0, 25.0, 50.0))
    band = ax.patches[-1].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((1.5, 2.5))
    assert list(ax.lines[0].get_xdata()) == [2.0, 2.0]
    assert ax.get_xlabel() and ax.get_ylabel()
    fig = pictures.plot_estimates(estimates, value=2.0, spread=0.5, limits=(0.0, 4.0), bars=4)
    assert heights(fig.axes[0]) == pytest.approx([25.0, 0.0, 25.0, 50.0])


def test_an_interval_that_misses_is_red() -> None:
    fig = pictures.plot_intervals(
        np.array([1.0, 3.0, 2.0]), np.array([1.5, 0.9, 0.1]), truth=2.0, ylabel="V"
    )
    (ax,) = fig.axes
    held, missed = ax.collections
    assert [s[:, 1].tolist() for s in held.get_segments()] == [[-0.5, 2.5], [1.9, 2.1]]
    assert [s[:, 1].tolist() for s in missed.get_segments()] == [
        [pytest.approx(2.1), pytest.approx(3.9)]
    ]
    assert [s[0, 0] for s in missed.get_segments()] == [2.0]
    assert to_hex(missed.get_color()[0]).upper() == RED


# --- K rollouts ------------------------------------------------------------------------------


def test_an_estimate_is_the_mean_of_k_rollouts() -> None:
    settings = {"state": 0, "gamma": 1.0, "seed": 3}
    policy = uniform_policy(coin())
    single = pictures.rollout_estimates(coin(), policy, K=1, count=12, **settings)
    assert set(single) == {2.0, 6.0}
    triple = pictures.rollout_estimates(coin(), policy, K=3, count=4, **settings)
    np.testing.assert_allclose(triple, single.reshape(4, 3).mean(axis=1))


def test_the_words_hold_the_exact_value_and_spread() -> None:
    # V = (6 + 2)/2 = 4, Var = 4, so the mean of 4 has a spread of 2/√4 = 1
    draw = pictures.rollout_drawing(coin(), uniform_policy(coin()), state=0, gamma=1.0)
    fig, words = draw(K=4, seed=1)
    estimates = pictures.rollout_estimates(
        coin(), uniform_policy(coin()), state=0, gamma=1.0, K=4, count=1000, seed=1
    )
    assert words == (
        f"K = 4: mean {estimates.mean():.2f} (exact 4.00), std {estimates.std():.2f} (exact 1.00)"
    )
    (ax,) = fig.axes
    assert ax.get_xlim() == (4.0 - 3 * 2.0, 4.0 + 3 * 2.0)
    band = ax.patches[-1].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((3.0, 5.0))


def test_size_and_axis_stay_while_k_changes() -> None:
    draw = pictures.rollout_drawing(coin(), uniform_policy(coin()), state=0, gamma=1.0, count=50)
    figures = [draw(K=K, seed=0)[0] for K in (1, 40)]
    settings = {"state": 0, "gamma": 1.0, "count": 50, "limits": (1.5, 6.5), "bars": 5}
    (ax,) = pictures.rollout_drawing(coin(), uniform_policy(coin()), **settings)(K=1)[0].axes
    assert ax.get_xlim() == (1.5, 6.5) and len(heights(ax)) == 5
    assert len({fig.axes[0].get_xlim() for fig in figures}) == 1
    assert len({Image.open(io.BytesIO(png_bytes(fig))).size for fig in figures}) == 1


def test_both_sliders_change_the_picture() -> None:
    box = pictures.rollout_slider(coin(), uniform_policy(coin()), state=0, gamma=1.0)
    K, seed = find(box, ipywidgets.IntSlider)
    (image,), (text,) = find(box, ipywidgets.Image), find(box, ipywidgets.Label)
    first = image.value
    K.value = pictures.MOST_ROLLOUTS
    second = image.value
    assert second != first and text.value.startswith("K = 40: ")
    seed.value = 7
    assert image.value != second
    K.value, seed.value = 1, 0
    assert image.value == first
