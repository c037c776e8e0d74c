"""What a figure shows is what the arrays say: arrows, numbers, curves, boxes."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.text import Annotation
from PIL import Image

from rlbook.show import chapter_map, plots
from rlbook.statistics import mean_interval
from rlbook.tabular import maps
from rlbook.tabular.gridworld import MOVES, GridWorld
from rlbook.tabular.planning import value_iteration

PNG = b"\x89PNG\r\n\x1a\n"


def drawn_arrows(ax: Axes) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(cell, (down, right)) of each arrow, in rows and columns, read off the picture."""
    found = []
    for arrow in annotations(ax):
        (head_x, head_y), (tail_x, tail_y) = arrow.xy, arrow.xyann
        cell = (round(tail_y), round(tail_x))
        found.append((cell, (int(np.sign(head_y - tail_y)), int(np.sign(head_x - tail_x)))))
    return found


def annotations(ax: Axes) -> list[Annotation]:
    return [t for t in ax.texts if isinstance(t, Annotation) and t.arrow_patch is not None]


def drawn_words(ax: Axes) -> dict[tuple[int, int], str]:
    """Cell (row, column) → what is written in it."""
    texts = [text for text in ax.texts if text.get_text()]
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in texts}


def single_action_policy(grid: GridWorld, rng: np.random.Generator) -> np.ndarray:
    return np.eye(4)[rng.integers(4, size=grid.S)]


# --- gridworlds ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [maps.MAZE, maps.AIMA_4X3, maps.OPEN_5X5])
def test_arrows_point_where_the_moves_lead(text: str) -> None:
    grid = GridWorld(text)
    policy = single_action_policy(grid, np.random.default_rng(0))
    arrows = dict(drawn_arrows(plots.plot_grid(grid, policy=policy).axes[0]))
    assert len(arrows) == (~grid.terminal).sum()  # and none in a goal or a pit
    moved = 0
    for s in np.flatnonzero(~grid.terminal):
        reached = grid.next_states[policy[s].argmax(), s]
        if reached != s:  # else a wall or the edge was in the way
            step = grid.cells[reached] - grid.cells[s]
            assert arrows[tuple(grid.cells[s])] == tuple(step)
            moved += 1
    assert moved > 2


def test_following_the_optimal_arrows_ends_in_the_goal() -> None:
    grid = GridWorld(maps.MAZE)
    solution = value_iteration(grid.mdp(), gamma=0.95)
    fig = plots.plot_grid(grid, V=solution.V, policy=solution.policy)
    arrows = dict(drawn_arrows(fig.axes[0]))
    cell = tuple(grid.cells[grid.start.argmax()])
    for _ in range(grid.S):
        if grid.symbols[cell] == maps.GOAL:
            return
        cell = (cell[0] + arrows[cell][0], cell[1] + arrows[cell][1])
        assert grid.symbols[cell] != maps.WALL
    pytest.fail("the arrows go round in a circle")


def test_all_tied_actions_get_an_arrow() -> None:
    grid = GridWorld(maps.OPEN_5X5)  # the goal is at the top right: up and right tie
    solution = value_iteration(grid.mdp(), gamma=1.0)
    arrows = drawn_arrows(plots.plot_grid(grid, policy=solution.policy).axes[0])
    at_start = {direction for cell, direction in arrows if cell == (4, 0)}
    assert at_start == {(-1, 0), (0, 1)}
    assert len(arrows) == (solution.policy[~grid.terminal] > 0).sum()


def test_a_likelier_action_has_a_longer_arrow() -> None:
    grid = GridWorld("S.G")
    policy = np.array([[0.0, 0.8, 0.0, 0.2], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    ax = plots.plot_grid(grid, policy=policy).axes[0]
    reach = {
        direction: abs(text.xy[0] - text.xyann[0])
        for text, (cell, direction) in zip(annotations(ax), drawn_arrows(ax), strict=True)
        if cell == (0, 0)
    }
    assert reach[(0, 1)] > reach[(0, -1)] > 0


@pytest.mark.parametrize("with_policy", [False, True])
def test_numbers_in_cells_are_the_rounded_values(with_policy: bool) -> None:
    grid = GridWorld(maps.AIMA_4X3)
    V = np.random.default_rng(1).normal(size=grid.S)
    policy = np.full((grid.S, 4), 0.25) if with_policy else None
    words = drawn_words(plots.plot_grid(grid, V=V, policy=policy, decimals=2).axes[0])
    for s in range(grid.S):
        cell = tuple(grid.cells[s])
        expected = grid.symbols[cell] if grid.terminal[s] else f"{V[s]:.2f}"
        assert words.pop(cell) == expected
    assert not words  # nothing is written on a wall


def test_a_value_of_minus_zero_is_written_without_its_sign() -> None:
    words = drawn_words(plots.plot_grid(GridWorld("S.G"), V=np.array([-0.0, 1.0, 0.0])).axes[0])
    assert words[(0, 0)] == "0.0"


def test_numbers_can_be_read_on_their_colour() -> None:
    grid = GridWorld("S...G")
    V = np.array([0.0, 1.0, 9.0, 10.0, 0.0])
    ink = {t.get_text(): to_hex(t.get_color()) for t in plots.plot_grid(grid, V=V).axes[0].texts}
    assert ink["0.0"] == ink["1.0"] == "#ffffff"  # viridis begins dark
    assert ink["9.0"] == ink["10.0"] == "#000000"


def test_a_path_runs_through_the_cells_of_its_states() -> None:
    grid = GridWorld(maps.AIMA_4X3)
    states = [grid.state_at(2, 0), grid.state_at(1, 0), grid.state_at(0, 0), grid.state_at(0, 1)]
    ax = plots.plot_grid(grid, path=states).axes[0]
    line = next(line for line in ax.lines if len(line.get_xdata()) == 4)
    assert list(zip(line.get_ydata(), line.get_xdata(), strict=True)) == [
        (2, 0), (1, 0), (0, 0), (0, 1),
    ]  # fmt: skip


def test_the_colour_scale_follows_the_limits() -> None:
    picture = plots.plot_grid(GridWorld("S.G"), V=np.array([1.0, 2.0, 0.0]), limits=(-5.0, 5.0))
    assert picture.axes[0].images[0].get_clim() == (-5.0, 5.0)


def test_action_values_stand_on_the_side_they_lead_to_and_the_best_are_bold() -> None:
    grid = GridWorld(maps.AIMA_4X3)
    Q = value_iteration(grid.mdp(), gamma=0.9).Q
    s = grid.state_at(1, 2)
    row, column = grid.cells[s]
    ax = plots.plot_action_values(grid, Q, decimals=3).axes[0]
    texts = {t.get_position(): t for t in ax.texts}
    for a, (down, right) in enumerate(MOVES):
        text = next(
            t
            for (x, y), t in texts.items()
            if np.hypot(x - column - 0.31 * right, y - row - 0.31 * down) < 0.01
        )
        assert text.get_text() == f"{Q[s, a]:.3f}"
        assert (text.get_weight() == "bold") == np.isclose(Q[s, a], Q[s].max())


# --- reaching the notebook -------------------------------------------------------------------


def shown(monkeypatch: pytest.MonkeyPatch, alt: str) -> tuple[dict, dict]:
    """What show_figure hands to Jupyter: the bundle and its metadata."""
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: calls.append((a, k)))
    plots.show_figure(plots.plot_grid(GridWorld("S.G")), alt)
    (((bundle,), options),) = calls
    assert options["raw"] is True
    return bundle, options["metadata"]


def test_the_alt_text_is_stored_with_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, metadata = shown(monkeypatch, "Three cells in a row.")
    assert bundle["image/png"].startswith(PNG)
    assert metadata == {"image/png": {"alt": "Three cells in a row."}}
    assert bundle["text/plain"] == "Figure: Three cells in a row."


@pytest.mark.parametrize("alt", ["", "   \n"])
def test_a_figure_without_alt_text_is_refused(alt: str) -> None:
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show_figure(plots.plot_grid(GridWorld("S.G")), alt)


def test_a_figure_is_closed_once_it_is_a_picture() -> None:
    fig = plots.plot_grid(GridWorld("S.G"))
    plots.png_bytes(fig)
    assert not plots.plt.fignum_exists(fig.number)


def test_a_picture_has_the_size_of_its_figure() -> None:
    fig = plots.plot_grid(GridWorld(maps.AIMA_4X3))
    expected = tuple((fig.get_size_inches() * fig.dpi).astype(int))
    assert Image.open(io.BytesIO(plots.png_bytes(fig))).size == expected


def test_the_style_does_not_leak_into_the_readers_own_figures() -> None:
    before = plots.plt.rcParams["font.size"]
    plots.plot_grid(GridWorld("S.G"))
    assert plots.plt.rcParams["font.size"] == before != plots.STYLE["font.size"]


def test_panels_come_in_rows_and_spare_ones_are_blank() -> None:
    fig, axes = plots.panels(5, columns=3)
    assert len(axes) == 5 and len(fig.axes) == 6
    assert not fig.axes[5].axison and all(ax.axison for ax in axes)


# --- curves and matrices ---------------------------------------------------------------------


def test_a_curve_goes_through_its_points() -> None:
    ax = plots.plot_curves({"a": [3.0, 1.0, 2.0]}, xlabel="step", ylabel="return").axes[0]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert ax.lines[0].get_ydata().tolist() == [3.0, 1.0, 2.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "return")


def test_a_log_axis_leaves_out_points_that_are_not_positive() -> None:
    curves = {"a": [1.0, 0.0, -2.0, 0.1]}
    ax = plots.plot_curves(curves, xlabel="x", ylabel="y", log_y=True).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, np.nan, np.nan, 0.1])
    assert ax.get_yscale() == "log"


def test_curves_differ_in_colour_and_in_dashes() -> None:
    curves = {name: [1.0, 2.0] for name in "abcdef"}
    lines = plots.plot_curves(curves, xlabel="x", ylabel="y").axes[0].lines
    assert len({line.get_color() for line in lines}) == 6
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 6


def test_a_seventh_curve_has_the_first_colour_and_other_dashes() -> None:
    curves = {str(i): [1.0, 2.0] for i in range(36)}
    lines = plots.plot_curves(curves, xlabel="x", ylabel="y").axes[0].lines
    assert lines[6].get_color() == lines[0].get_color()
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}
    assert len(looks) == 36


def bands(ax: Axes) -> list[np.ndarray]:
    """The corners of each band [points, 2]."""
    return [collection.get_paths()[0].vertices for collection in ax.collections]


def test_a_band_is_the_interval_of_the_mean_around_its_line() -> None:
    curves = {name: np.random.default_rng(i).normal(size=(5, 3)) for i, name in enumerate("ab")}
    x = [10.0, 20.0, 30.0]
    ax = plots.plot_bands(curves, x=x, xlabel="step", ylabel="return", title="t").axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("step", "return", "t")
    for line, corners, samples in zip(ax.lines, bands(ax), curves.values(), strict=True):
        expected = mean_interval(samples)
        assert line.get_xdata().tolist() == x
        assert np.allclose(line.get_ydata(), samples.mean(axis=0))
        for position, low, high in zip(x, expected.low, expected.high, strict=True):
            heights = corners[corners[:, 0] == position, 1]
            assert (heights.min(), heights.max()) == pytest.approx((low, high))
    assert [to_hex(c.get_facecolor()[0]) for c in ax.collections] == [
        line.get_color().lower() for line in ax.lines
    ]


def test_bands_share_the_looks_of_curves() -> None:
    curves = {name: np.ones((2, 3)) for name in "abcdefgh"}
    by_bands = plots.plot_bands(curves, xlabel="x", ylabel="y").axes[0].lines
    by_curves = plots.plot_curves({n: np.ones(3) for n in curves}, xlabel="x", ylabel="y")
    for one, other in zip(by_bands, by_curves.axes[0].lines, strict=True):
        assert one.get_color() == other.get_color()
        assert one._unscaled_dash_pattern == other._unscaled_dash_pattern


def test_one_seed_is_a_line_without_width() -> None:
    ax = plots.plot_bands({"a": np.array([[1.0, 4.0]])}, xlabel="x", ylabel="y").axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1.0, 4.0]
    corners = bands(ax)[0]
    assert {tuple(corner) for corner in corners.tolist()} == {(1.0, 1.0), (2.0, 4.0)}


def test_references_are_dotted_lines_in_the_legend() -> None:
    options = {"xlabel": "x", "ylabel": "y", "references": {"optimum": 1.5}}
    ax = plots.plot_bands({"a": np.zeros((2, 3))}, **options).axes[0]
    assert list(ax.lines[-1].get_ydata()) == [1.5, 1.5]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "optimum"]
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1  # outside
    assert (
        plots.plot_bands({"a": np.zeros((2, 3))}, xlabel="x", ylabel="y").axes[0].get_legend()
        is None
    )


def test_a_band_that_reaches_zero_stays_on_a_logarithmic_axis() -> None:
    samples = np.array([[1.0, 4.0], [0.01, 5.0]])  # the interval of the first point passes 0
    ax = plots.plot_bands({"a": samples}, xlabel="x", ylabel="y", log_y=True, log_x=True).axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert mean_interval(samples).low[0] < 0.0 < bands(ax)[0][:, 1].min()
    assert ax.get_ylim()[0] > 1e-3


def test_bands_can_share_axes_with_other_lines() -> None:
    fig, (ax,) = plots.panels(1)
    ax.plot([1, 2], [0, 0])
    assert plots.plot_bands({"a": np.ones((2, 2))}, xlabel="x", ylabel="y", ax=ax) is fig
    assert len(ax.lines) == 2 and len(ax.collections) == 1


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 2, 2)])
def test_a_band_needs_seeds_and_positions(shape: tuple) -> None:
    with pytest.raises(ValueError, match=r"curve 'a' must have shape \[seeds, T\]; it is"):
        plots.plot_bands({"a": np.zeros(shape)}, xlabel="x", ylabel="y")


def test_a_heat_map_writes_its_numbers_where_they_belong() -> None:
    matrix = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    fig = plots.plot_heat_map(
        matrix, xlabel="x", ylabel="y", colour_label="value (units)", decimals=1
    )
    words = drawn_words(fig.axes[0])
    assert words == {cell: f"{value:.1f}" for cell, value in np.ndenumerate(matrix)}
    assert fig.axes[1].get_ylabel() == "value (units)"


def test_a_heat_map_shows_no_colour_between_two_values() -> None:
    # 300 columns of 0 and 1 on fewer pixels: smoothing would make greens of yellow and violet
    matrix = np.tile([0.0, 1.0, 1.0], (2, 100))
    ax = plots.panels(1, width=2.5, height=2.0)[1][0]
    plots.plot_heat_map(matrix, xlabel="x", ylabel="y", colour_label="mask", ax=ax)
    picture = ax.images[0].make_image(ax.figure.canvas.get_renderer())[0]
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) == 2


# --- the chapter map -------------------------------------------------------------------------

PARTS = {"Start": ["00_welcome"], "Part I: Tables": ["02_gridworld", "03_planning"]}
EDGES = [("00_welcome", "02_gridworld"), ("02_gridworld", "03_planning")]


def boxes(ax: Axes) -> list[FancyBboxPatch]:
    return [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]


def test_the_map_has_a_box_for_each_chapter_and_an_arrow_for_each_edge() -> None:
    implied = ("00_welcome", "03_planning")
    ax = chapter_map.plot_chapter_map(PARTS, [*EDGES, implied]).axes[0]
    assert len(boxes(ax)) == 3
    assert sum(isinstance(patch, FancyArrowPatch) for patch in ax.patches) == 2


def test_planned_chapters_are_hollow_and_dashed_and_highlights_are_orange() -> None:
    ax = chapter_map.plot_chapter_map(
        PARTS, EDGES, planned=["03_planning"], highlight=["00_welcome"]
    ).axes[0]
    welcome, gridworld, planning = boxes(ax)
    assert to_hex(welcome.get_facecolor()) == plots.ORANGE.lower()
    assert to_hex(gridworld.get_facecolor()) == plots.BLUE.lower()
    assert to_hex(planning.get_facecolor()) == "#ffffff" and planning.get_linestyle() == "--"
    assert gridworld.get_linestyle() == "-"


def test_only_the_kinds_of_box_that_occur_are_explained() -> None:
    def kinds(**options) -> list[str]:
        legend = chapter_map.plot_chapter_map(PARTS, EDGES, **options).axes[0].get_legend()
        return [text.get_text() for text in legend.get_texts()]

    assert kinds() == ["written"]
    assert kinds(planned=["03_planning"]) == ["written", "in preparation"]


def test_a_small_map_shows_numbers_and_nothing_else() -> None:
    fig, (ax, _) = plots.panels(2)
    assert chapter_map.plot_chapter_map(PARTS, EDGES, numbers_only=True, title="t", ax=ax) is fig
    assert [text.get_text() for text in ax.texts] == ["00", "02", "03"]


def test_every_name_fits_into_its_box_and_no_part_name_touches_one(root) -> None:
    from rlbook.book.manifest import read_book

    book = read_book(root / "book.yml")
    parts = {part.caption or "Start": [c.slug for c in part.chapters] for part in book.parts}
    fig = chapter_map.plot_chapter_map(parts, book.prerequisite_edges())
    fig.canvas.draw()
    ax = fig.axes[0]
    frames = [box.get_window_extent() for box in boxes(ax)]
    for text, frame in zip(ax.texts, frames, strict=False):  # names of chapters come first
        extent = text.get_window_extent()
        assert frame.x0 <= extent.x0 and extent.x1 <= frame.x1, text.get_text()
        assert frame.y0 <= extent.y0 and extent.y1 <= frame.y1, text.get_text()
    for text in ax.texts[len(frames) :]:
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 < min(frame.x0 for frame in frames), text.get_text()
