"""The pictures of temporal-difference learning show the numbers that they are given."""

import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from rlbook.show import temporal_difference as show
from rlbook.show.plots import png_bytes
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.planning import value_iteration

ROW = np.array([4.0, 8.0, 0.0])
CLIFF = "......\n......\nSPPPPG"


def find(widget: ipywidgets.Widget, kind: type) -> list:
    inside = [w for child in getattr(widget, "children", ()) for w in find(child, kind)]
    return [widget, *inside] if isinstance(widget, kind) else inside


# --- what a target reads ---------------------------------------------------------------------


def test_weights_by_hand() -> None:
    weights = show.next_action_weights(ROW, taken=0, epsilon=0.3)
    assert weights["SARSA"].tolist() == [1.0, 0.0, 0.0]
    assert weights["Q-learning"].tolist() == [0.0, 1.0, 0.0]
    # 0.3 / 3 = 0.1 each, and 0.7 more for the best
    assert weights["expected SARSA"] == pytest.approx([0.1, 0.8, 0.1], abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_every_methods_weights_are_probabilities(epsilon: float) -> None:
    for weight in show.next_action_weights(ROW, taken=2, epsilon=epsilon).values():
        assert weight.min() >= 0.0 and weight.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_trees_say_their_targets() -> None:
    # 1 + 0.5·4 = 3;   1 + 0.5 (0.1·4 + 0.8·8 + 0.1·0) = 4.4;   1 + 0.5·8 = 5
    fig, words = show.draw_backups(ROW, taken=0, epsilon=0.3, reward=1.0, gamma=0.5)
    assert words == "targets: SARSA 3, expected SARSA 4.4, Q-learning 5"
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["SARSA: target 3", "expected SARSA: target 4.4", "Q-learning: target 5"]
    shown = (["1", "0", "0"], ["0.1", "0.8", "0.1"], ["0", "1", "0"])
    for ax, weights in zip(fig.axes, shown, strict=True):
        texts = [text.get_text() for text in ax.texts]
        assert [t for t in texts if t.startswith("weight")] == [f"weight {w}" for w in weights]
        assert "reward 1" in texts
    png_bytes(fig)


def test_a_heavier_action_has_a_wider_line() -> None:
    fig, _ = show.draw_backups(ROW, taken=0, epsilon=0.3, reward=1.0, gamma=0.5)
    lines = fig.axes[1].lines[1:]  # without the stem
    branches = [line.get_linewidth() for line in lines if len(line.get_xdata()) == 2]
    assert branches[1] > branches[0] == pytest.approx(branches[2])
    png_bytes(fig)


# --- greedy paths ----------------------------------------------------------------------------


def test_the_greedy_path_is_the_shortest_one_where_Q_is_optimal() -> None:
    grid = GridWorld(CLIFF)
    Q = value_iteration(grid.mdp(), gamma=1.0).Q
    path = show.greedy_path(grid, Q, start=12)
    assert path == [12, 6, 7, 8, 9, 10, 11, 17]  # up, along the edge, down


def test_a_greedy_path_stops_where_it_runs_in_a_circle() -> None:
    grid = GridWorld("S...G")
    Q = np.zeros((5, 4))
    Q[:, 1] = 1.0
    Q[2] = [0.0, 0.0, 0.0, 1.0]  # right, right, left
    assert show.greedy_path(grid, Q, start=0) == [0, 1, 2, 1]
    Q[1] = [1.0, 0.0, 0.0, 0.0]  # up: into the edge
    assert show.greedy_path(grid, Q, start=0) == [0, 1, 1]


# --- Q-learning, episode by episode ----------------------------------------------------------


def test_the_tables_are_those_of_q_learning_and_not_one_live_table() -> None:
    # One step of a corridor of two cells, α = 0.5, reward -1: -0.5, -0.75, -0.875, ...
    settings = {"gamma": 1.0, "alpha": 0.5, "epsilon": 0.0, "episodes": 3}
    tables = show.q_learning_tables(GridWorld("SG"), **settings, seed=0)
    assert len(tables) == 4 and not tables[0].any()
    right = [table[0, 1] for table in tables]
    assert right[1:] == [-0.5, -0.75, -0.875]


def test_the_picture_says_where_the_greedy_path_ends() -> None:
    grid = GridWorld(CLIFF)
    Q = value_iteration(grid.mdp(), gamma=1.0).Q
    fig, words = show.draw_q_learning(grid, [np.zeros((grid.S, 4)), Q], episode=1)
    assert words == "episode 1: the greedy path reaches G in 7 moves"
    assert fig.axes[0].get_title() == "Q after episode 1"
    written = [text.get_text() for text in fig.axes[0].texts]
    assert f"{Q[0, 1]:.1f}" in written
    png_bytes(fig)
    fig, words = show.draw_q_learning(grid, [np.zeros((grid.S, 4)), Q], episode=0)
    # all values equal: the first action is up, twice, and then into the border
    assert words == "episode 0: the greedy path bumps into a border after 3 moves"
    png_bytes(fig)


@pytest.mark.parametrize(
    ("action", "words"),
    [(1, "reaches P in 1 move"), (3, "bumps into a border after 1 move")],
)
def test_the_words_for_a_path_of_one_move(action: int, words: str) -> None:
    grid, Q = GridWorld(CLIFF), np.zeros((18, 4))
    Q[12, action] = 1.0  # from S: 1 is right, into P; 3 is left, out of the map
    fig, said = show.draw_q_learning(grid, [Q], episode=0)
    assert said == f"episode 0: the greedy path {words}"
    png_bytes(fig)


def test_the_words_for_a_circle() -> None:
    grid, Q = GridWorld(CLIFF), np.zeros((18, 4))
    Q[6, 2] = 1.0  # up from S, and down again
    fig, said = show.draw_q_learning(grid, [Q], episode=0)
    assert said == "episode 0: the greedy path runs in a circle after 2 moves"
    png_bytes(fig)


def test_every_frame_has_the_same_size() -> None:
    grid = GridWorld(CLIFF, rewards={"P": -100.0})
    settings = {"gamma": 1.0, "alpha": 0.5, "epsilon": 0.1, "episodes": 30}
    tables = show.q_learning_tables(grid, **settings)
    figures = [show.draw_q_learning(grid, tables, episode=k)[0] for k in (0, 1, 30)]
    assert len({Image.open(io.BytesIO(png_bytes(fig))).size for fig in figures}) == 1


def test_every_slider_changes_the_picture() -> None:
    box = show.q_learning_stepper(CLIFF, episodes=20, P=-100.0)
    (episode,), (image,) = find(box, ipywidgets.IntSlider), find(box, ipywidgets.Image)
    alpha, epsilon = find(box, ipywidgets.FloatSlider)
    assert (episode.min, episode.max) == (0, 20)
    seen = [image.value]
    for slider, value in ((episode, 15), (alpha, 0.2), (epsilon, 0.6)):
        slider.value = value
        assert image.value not in seen
        seen.append(image.value)
    assert find(box, ipywidgets.Label)[0].value.startswith("episode 15: the greedy path")
    episode.value, alpha.value, epsilon.value = 0, 0.5, 0.1
    assert image.value == seen[0]
