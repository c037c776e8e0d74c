"""Pictures of bandits show the numbers they are given, and the widgets' controls move them."""

import io
import itertools

import ipywidgets
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from scipy.stats import beta

from rlbook.show import bandits
from rlbook.show.plots import CYCLE, png_bytes
from rlbook.tabular.bandits import UCB, Bandit, EpsilonGreedy, ThompsonBeta, play

MEANS = [0.3, 0.5, 0.7]


def find(widget: ipywidgets.Widget, kind: type) -> list:
    inside = [w for child in getattr(widget, "children", ()) for w in find(child, kind)]
    return [widget, *inside] if isinstance(widget, kind) else inside


def size(fig) -> tuple[int, int]:
    return Image.open(io.BytesIO(png_bytes(fig))).size


def test_bells_stand_at_their_means_and_are_as_wide_as_the_noise() -> None:
    ax = bandits.plot_reward_spread(np.array([1.0, -0.5]), noise=2.0).axes[0]
    bars = [line for line in ax.lines if line.get_color() in CYCLE]
    assert [line.get_ydata()[0] for line in bars] == [1.0, -0.5]
    assert [to_hex(line.get_color()) for line in bars] == [CYCLE[1].lower(), CYCLE[0].lower()]
    reach = ax.collections[0].get_paths()[0].get_extents()
    assert (reach.y0, reach.y1) == pytest.approx((1.0 - 6.0, 1.0 + 6.0))
    assert reach.x1 - reach.x0 == pytest.approx(0.8)
    x, y = ax.collections[0].get_paths()[0].vertices.T
    assert np.abs(x[np.isclose(y, 3.0)]) == pytest.approx(0.4 * np.exp(-0.5))  # one noise above


def test_bounds_reach_from_the_estimate_to_the_upper_end() -> None:
    Q, upper = np.array([0.2, 0.6, 0.4]), np.array([1.5, 0.9, 0.5])
    ax = bandits.plot_bounds(Q, upper, means=np.array(MEANS)).axes[0]
    bars = [line for line in ax.lines if line.get_linewidth() == 5]
    assert [tuple(line.get_ydata()) for line in bars] == [(0.2, 1.5), (0.6, 0.9), (0.4, 0.5)]
    assert [line.get_color() for line in bars] == [CYCLE[1], CYCLE[0], CYCLE[0]]
    dots = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert dots == Q.tolist()
    (crosses,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert crosses.get_ydata().tolist() == MEANS


def test_beliefs_are_beta_densities_with_the_draws_on_them() -> None:
    a, b = np.array([1.0, 4.0, 2.0]), np.array([1.0, 2.0, 6.0])
    draws = np.array([0.1, 0.8, 0.2])
    ax = bandits.plot_beliefs(a, b, means=np.array(MEANS), draws=draws).axes[0]
    curves = [line for line in ax.lines if len(line.get_xdata()) > 1]
    for arm, curve in enumerate(curves):
        area = np.trapezoid(curve.get_ydata(), curve.get_xdata())
        mean = np.trapezoid(curve.get_xdata() * curve.get_ydata(), curve.get_xdata())
        assert area == pytest.approx(1.0, abs=1e-3)  # 400 intervals
        assert mean == pytest.approx(a[arm] / (a[arm] + b[arm]), abs=1e-3)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == draws.tolist()
    assert dots[1].get_ydata()[0] == pytest.approx(beta(4, 2).pdf(0.8))
    ticks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "^"]
    assert ticks == MEANS


# --- Thompson sampling, pull by pull ---------------------------------------------------------


def test_the_history_pulls_the_largest_draw_and_counts_what_it_pays() -> None:
    history = bandits.thompson_history(MEANS, pulls=60, seed=3)
    assert len(history) == 60
    assert history[0].successes.tolist() == history[0].failures.tolist() == [1.0, 1.0, 1.0]
    for now, after in itertools.pairwise(history):
        assert now.arm == now.draws.argmax()
        pulled = np.arange(3) == now.arm
        assert (after.successes - now.successes).tolist() == (pulled * now.reward).tolist()
        assert (after.failures - now.failures).tolist() == (pulled * (1 - now.reward)).tolist()
    assert len({now.arm for now in history}) == 3


def test_a_step_of_the_film_shows_its_own_belief() -> None:
    history = bandits.thompson_history(MEANS, pulls=31, seed=0)
    fig, words = bandits.draw_thompson(history, MEANS, pull=30)
    now, ax = history[30], fig.axes[0]
    curve = [line for line in ax.lines if len(line.get_xdata()) > 1][2]
    expected = beta(now.successes[2], now.failures[2]).pdf(curve.get_xdata())
    np.testing.assert_allclose(curve.get_ydata(), expected)
    thetas = ", ".join(f"{theta:.2f}" for theta in now.draws)
    assert words == f"draws {thetas}: pull arm {now.arm}; it pays {now.reward:.0f}"
    assert ax.get_title() == "after 30 pulls"
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert dots == now.draws.tolist()


def test_the_film_keeps_its_size_and_its_axes() -> None:
    history = bandits.thompson_history(MEANS, pulls=101, seed=0)
    figures = [bandits.draw_thompson(history, MEANS, pull=k)[0] for k in (0, 7, 100)]
    assert len({fig.axes[0].get_ylim() for fig in figures}) == 1
    assert len({size(fig) for fig in figures}) == 1


def test_curves_and_draws_of_nearly_certain_arms_are_inside_the_picture() -> None:
    """Arms that nearly always pay have densities far above 9, where the axis once ended."""
    history = bandits.thompson_history([0.97, 0.02], pulls=101, seed=0)
    heights = []
    for pull in range(0, 101, 10):
        ax = bandits.draw_thompson(history, [0.97, 0.02], pull=pull)[0].axes[0]
        heights += [np.max(line.get_ydata()) for line in ax.lines]
        top = ax.get_ylim()[1]
    assert 12.0 < max(heights) < top


def test_stepping_shows_the_next_pull() -> None:
    box = bandits.thompson_stepper(MEANS, pulls=4)
    (slider,), (image,) = find(box, ipywidgets.IntSlider), find(box, ipywidgets.Image)
    (film,) = find(box, ipywidgets.Play)
    assert (slider.min, slider.max, film.max) == (0, 4, 4)
    seen = {image.value}
    for pull in range(1, 5):
        slider.value = pull
        seen.add(image.value)
    assert len(seen) == 5


# --- regret under the reader's own settings --------------------------------------------------


def test_the_explorer_plots_the_regret_of_the_package() -> None:
    fig, words = bandits.draw_regret(epsilon=0.2, c=1.0, gap=0.4, pulls=50, runs=20)
    bandit = Bandit(np.tile([0.3, 0.7], (20, 1)), noise=None)
    agent = EpsilonGreedy(20, 2, epsilon=0.2)
    regret = play(bandit, agent, pulls=50, generator=np.random.default_rng(0)).regret
    np.testing.assert_allclose(fig.axes[0].lines[0].get_ydata(), regret)
    for line, other in zip(
        fig.axes[0].lines[1:], (UCB(20, 2, c=1.0), ThompsonBeta(20, 2)), strict=True
    ):
        expected = play(bandit, other, pulls=50, generator=np.random.default_rng(0)).regret
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert words.startswith(f"regret after 50 pulls: ε-greedy {regret[-1]:.1f}, UCB ")
    assert fig.axes[0].get_xscale() == "log"


def test_equal_arms_have_no_regret() -> None:
    fig, words = bandits.draw_regret(epsilon=0.5, c=1.0, gap=0.0, pulls=20, runs=5)
    assert words == "regret after 20 pulls: ε-greedy 0.0, UCB 0.0, Thompson 0.0"
    assert fig.axes[0].get_ylim()[0] == 0.0


def test_each_slider_of_the_explorer_changes_picture_and_text() -> None:
    box = bandits.bandit_explorer()
    sliders = find(box, ipywidgets.FloatSlider) + find(box, ipywidgets.IntSlider)
    (image,), (text,) = find(box, ipywidgets.Image), find(box, ipywidgets.Label)
    assert [slider.description for slider in sliders] == ["ε", "c", "gap", "pulls"]
    sliders[-1].value = 200  # short, so that the test is
    for slider, value in zip(sliders, [0.5, 0.2, 0.6, 100], strict=True):
        picture, words, first = image.value, text.value, slider.value
        slider.value = value
        assert image.value != picture and text.value != words, slider.description
        slider.value = first
        assert text.value == words


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_ends_of_all_sliders_can_be_drawn(end: str) -> None:
    box = bandits.bandit_explorer()
    (pulls,) = find(box, ipywidgets.IntSlider)
    pulls.value = pulls.min
    for slider in find(box, ipywidgets.FloatSlider):
        slider.value = getattr(slider, end)
    assert find(box, ipywidgets.Label)[0].value.startswith("regret after 100 pulls: ")
