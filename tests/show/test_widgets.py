"""The functions behind the widgets, and that moving a control changes picture and text."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from rlbook.show import widgets
from rlbook.show.plots import png_bytes
from rlbook.tabular import maps
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.planning import policy_iteration, value_iteration

AIMA = {"gamma": 1.0, "slip": 0.2, "noise": 0.0, "step_reward": -0.04, "G": 1.0, "P": -1.0}


def find(widget: ipywidgets.Widget, kind: type) -> list:
    """All widgets of a kind inside a widget, in order."""
    inside = [w for child in getattr(widget, "children", ()) for w in find(child, kind)]
    return [widget, *inside] if isinstance(widget, kind) else inside


def size(fig) -> tuple[int, int]:
    return Image.open(io.BytesIO(png_bytes(fig))).size


# --- joining a drawing to its controls -------------------------------------------------------


def line_of_height(height: float) -> tuple[plt.Figure, str]:
    fig = plt.figure(figsize=(2, 2))
    fig.add_subplot().set_ylim(0, 1)
    fig.axes[0].axhline(height)
    return fig, f"height {height:.1f}"


def test_a_moved_slider_changes_the_picture_and_the_text() -> None:
    slider = ipywidgets.FloatSlider(value=0.2, min=0, max=1)
    box = widgets.controlled_figure(line_of_height, height=slider)
    (image,), (text,) = find(box, ipywidgets.Image), find(box, ipywidgets.Label)
    before = image.value
    assert text.value == "height 0.2"
    slider.value = 0.7
    assert image.value != before and text.value == "height 0.7"
    assert image.value == png_bytes(line_of_height(0.7)[0])  # the picture of that value


def test_moving_back_gives_the_first_picture_again() -> None:
    slider = ipywidgets.FloatSlider(value=0.2, min=0, max=1)
    (image,) = find(widgets.controlled_figure(line_of_height, height=slider), ipywidgets.Image)
    before = image.value
    slider.value = 0.7
    slider.value = 0.2
    assert image.value == before


def test_the_picture_is_not_stretched_to_the_width_of_the_page() -> None:
    slider = ipywidgets.FloatSlider(value=0.2, min=0, max=1)
    (image,) = find(widgets.controlled_figure(line_of_height, height=slider), ipywidgets.Image)
    assert image.layout.align_self == "flex-start" and image.layout.max_width == "100%"


def test_no_figure_stays_open() -> None:
    slider = ipywidgets.FloatSlider(value=0.0, min=0, max=1)
    widgets.controlled_figure(line_of_height, height=slider)
    for height in np.linspace(0.1, 1.0, 5):
        slider.value = height
    assert plt.get_fignums() == []


# --- value iteration, sweep by sweep ---------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_sweeps_are_those_of_value_iteration(gamma: float) -> None:
    mdp = GridWorld(maps.MAZE).mdp()
    history = value_iteration(mdp, gamma=gamma, keep_values=True).history
    sweeps = widgets.sweep_values(mdp, gamma=gamma, sweeps=8)
    np.testing.assert_array_equal(sweeps[0], np.zeros(mdp.S))
    for k in range(1, 9):
        np.testing.assert_allclose(sweeps[k], history[k - 1].V, atol=1e-12)


def test_the_numbers_of_the_stepper_are_those_of_its_sweep() -> None:
    grid = GridWorld(maps.AIMA_4X3)
    values = widgets.sweep_values(grid.mdp(), gamma=0.9, sweeps=5)
    fig, words = widgets.draw_sweep(grid, values, gamma=0.9, sweep=3)
    written = [t.get_text() for t in fig.axes[0].texts]
    live = [f"{values[3][s]:.1f}" for s in range(grid.S) if not grid.terminal[s]]
    assert [w for w in written if w not in "GP"] == live
    assert words == f"sweep 3: largest change {np.abs(values[3] - values[2]).max():.3g}"


def test_the_stepper_keeps_its_size_and_its_colours() -> None:
    grid = GridWorld(maps.AIMA_4X3)
    values = widgets.sweep_values(grid.mdp(), gamma=1.0, sweeps=12)
    figures = [widgets.draw_sweep(grid, values, gamma=1.0, sweep=k)[0] for k in (0, 1, 12)]
    assert len({fig.axes[0].images[0].get_clim() for fig in figures}) == 1
    assert len({size(fig) for fig in figures}) == 1


def test_stepping_shows_the_next_sweep() -> None:
    box = widgets.value_iteration_stepper(GridWorld(maps.AIMA_4X3), sweeps=4)
    (slider,), (image,) = find(box, ipywidgets.IntSlider), find(box, ipywidgets.Image)
    (play,) = find(box, ipywidgets.Play)
    assert (slider.min, slider.max, play.max) == (0, 4, 4)
    seen = {image.value}
    for sweep in range(1, 5):
        slider.value = sweep
        seen.add(image.value)
        assert find(box, ipywidgets.Label)[0].value.startswith(f"sweep {sweep}:")
    assert len(seen) == 5


# --- how the optimal policy depends on the world ---------------------------------------------


def test_the_solved_grid_agrees_with_the_published_values() -> None:
    # Russell and Norvig, AIMA (3rd edition), figure 17.3.
    grid, solution = widgets.solve_grid(maps.AIMA_4X3, **AIMA)
    published = [
        [0.812, 0.868, 0.918, 0.0],
        [0.762, np.nan, 0.660, 0.0],
        [0.705, 0.655, 0.611, 0.388],
    ]
    np.testing.assert_allclose(grid.to_grid(solution.V), published, atol=5e-4)


def test_the_drawn_values_are_those_of_another_planner() -> None:
    settings = {"gamma": 0.9, "slip": 0.1, "noise": 0.2, "step_reward": -0.1}
    grid = GridWorld(maps.AIMA_4X3, slip=0.1, noise=0.2, step_reward=-0.1, rewards={"G": 1.0})
    V = policy_iteration(grid.mdp(), gamma=0.9).V
    fig, words = widgets.draw_solved_grid(maps.AIMA_4X3, **settings, G=1.0)
    written = [t.get_text() for t in fig.axes[0].texts if t.get_text() not in ("", "G", "P")]
    assert written == [f"{V[s]:.2f}" for s in range(grid.S) if not grid.terminal[s]]
    assert words == f"value of the start: {V[grid.state_at(2, 0)]:.3f}"


def test_the_size_does_not_change_with_the_sliders() -> None:
    changes = [{}, {"gamma": 0.0}, {"slip": 0.8}, {"step_reward": -2.0}, {"noise": 0.8}]
    figures = [widgets.draw_solved_grid(maps.AIMA_4X3, **{**AIMA, **c})[0] for c in changes]
    assert len({size(fig) for fig in figures}) == 1


def test_each_slider_of_the_grid_moves_the_value_of_the_start() -> None:
    box = widgets.gridworld_sliders(maps.AIMA_4X3, gamma=0.95, slip=0.2, G=1.0, P=-1.0)
    sliders, (text,) = find(box, ipywidgets.FloatSlider), find(box, ipywidgets.Label)
    assert [slider.description for slider in sliders] == ["γ", "slip", "noise", "step"]
    for slider, value in zip(sliders, [0.5, 0.6, 0.4, -1.0], strict=True):
        before, first = text.value, slider.value
        slider.value = value
        assert text.value != before, slider.description
        slider.value = first
        assert text.value == before


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_ends_of_all_sliders_can_be_solved(end: str) -> None:
    box = widgets.gridworld_sliders(maps.AIMA_4X3, gamma=1.0, slip=0.2, G=1.0, P=-1.0)
    for slider in find(box, ipywidgets.FloatSlider):
        slider.value = getattr(slider, end)
    expected = {"min": "-2.000", "max": None}[end]  # γ = 0: only the step itself counts
    words = find(box, ipywidgets.Label)[0].value
    assert words.startswith("value of the start: ")
    assert expected is None or words.endswith(expected)
