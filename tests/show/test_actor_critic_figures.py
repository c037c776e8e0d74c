"""The pictures of actor and critic show the numbers that they are given."""

import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from rlbook.show import actor_critic as show
from rlbook.show.plots import png_bytes
from rlbook.tabular.advantage_estimates import gae_error, lambda_return_weights

MAP = "...G\n....\nS..."


def find(widget: ipywidgets.Widget, kind: type) -> list:
    inside = [w for child in getattr(widget, "children", ()) for w in find(child, kind)]
    return [widget, *inside] if isinstance(widget, kind) else inside


@pytest.fixture(scope="module")
def walk() -> show.Walk:
    return show.Walk(MAP, seed=1)


# --- weights ---------------------------------------------------------------------------------


def test_the_bars_are_the_weights() -> None:
    fig, words = show.draw_weights((0.5, 0.9), steps=4)
    for ax, lam in zip(fig.axes, (0.5, 0.9), strict=True):
        heights = [bar.get_height() for bar in ax.patches]
        assert heights == pytest.approx(lambda_return_weights(lam, 4).tolist())
    assert words == "λ = 0.5: last weight 0.12; λ = 0.9: last weight 0.73"
    png_bytes(fig)


# --- bias against variance -------------------------------------------------------------------


def test_the_curves_are_the_exact_errors(walk: show.Walk) -> None:
    V = walk.critic(gamma=1.0, error=2.0)
    curves = show.error_curves(walk.mdp, walk.policy, V, gamma=1.0, lams=[0.0, 0.5], samples=4)
    parts = gae_error(walk.mdp, walk.policy, V, gamma=1.0, lam=0.5)
    assert curves["bias²"][1] == parts.tilt > 0.0
    assert curves["noise"][1] == pytest.approx((parts.shift + parts.variance) / 4)
    assert curves["sum"] == pytest.approx(curves["bias²"] + curves["noise"])


def test_the_dot_is_at_the_smallest_sum() -> None:
    curves = {"bias²": np.array([3.0, 1.0, 0.0]), "noise": np.array([0.0, 0.5, 4.0])}
    curves["sum"] = curves["bias²"] + curves["noise"]
    fig, words = show.draw_error_curves({"a critic": curves}, lams=[0.0, 0.5, 1.0])
    assert words == "a critic: best λ 0.50"
    *lines, dot = fig.axes[0].lines
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (0.5, 1.5)
    assert [line.get_ydata().tolist() for line in lines] == [c.tolist() for c in curves.values()]
    png_bytes(fig)


# --- one walk --------------------------------------------------------------------------------


def test_a_perfect_critic_and_no_slip_give_the_exact_advantages_at_lambda_0() -> None:
    calm = show.Walk(MAP, slip=0.0, seed=0)
    estimates = calm.estimates(gamma=1.0, lam=0.0, error=0.0)
    assert estimates == pytest.approx(calm.exact, abs=1e-9)
    assert estimates.shape == (len(calm.episode),)


def test_lambda_1_is_the_return_less_the_value(walk: show.Walk) -> None:
    V = walk.critic(gamma=1.0, error=3.0)
    T = len(walk.episode)
    expected = -np.arange(T, 0.0, -1.0) - V[walk.episode.states[:-1]]  # -1 a step
    assert walk.estimates(gamma=1.0, lam=1.0, error=3.0) == pytest.approx(expected)


def test_the_bars_are_exact_and_estimated_advantages(walk: show.Walk) -> None:
    fig, words = show.draw_walk(walk, gamma=0.9, lam=0.5, error=1.0)
    T, heights = len(walk.episode), [bar.get_height() for bar in fig.axes[0].patches]
    estimates = walk.estimates(gamma=0.9, lam=0.5, error=1.0)
    assert heights == pytest.approx([*walk.exact, *estimates])
    distance = np.sqrt(np.mean((estimates - walk.exact) ** 2))
    right = int((np.sign(estimates) == np.sign(walk.exact)).sum())
    assert words == (
        f"root mean square distance {distance:.2f}; the sign is right for {right} of {T}"
    )
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == [
        "↑→↓←"[a] for a in walk.episode.actions
    ]
    png_bytes(fig)


def test_every_slider_changes_the_picture_but_not_its_size() -> None:
    box = show.gae_sliders(MAP, seed=1)
    (image,), sliders = find(box, ipywidgets.Image), find(box, ipywidgets.FloatSlider)
    assert [slider.description for slider in sliders] == ["λ", "γ", "critic error"]
    seen = [image.value]
    for slider, value in zip(sliders, (0.9, 0.8, 3.0), strict=True):
        slider.value = value
        assert image.value not in seen
        seen.append(image.value)
    assert len({Image.open(io.BytesIO(picture)).size for picture in seen}) == 1
    assert find(box, ipywidgets.Label)[0].value.startswith("root mean square distance")
