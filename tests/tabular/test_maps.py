"""Text maps: parsing, distances, random maps, and what is refused."""

import numpy as np
import pytest
from oracles import walking_distances

from rlbook.tabular import maps


def test_a_map_becomes_an_array_of_characters():
    symbols = maps.parse_map("\n  S.#\n  .PG\n\n")
    assert symbols.tolist() == [["S", ".", "#"], [".", "P", "G"]]


def test_extra_symbols_must_be_declared():
    assert maps.parse_map("S*G", extra_symbols="*").tolist() == [["S", "*", "G"]]
    with pytest.raises(ValueError, match=r"unknown symbol '\*' at row 0, column 1.*rewards="):
        maps.parse_map("S*G")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the map is empty"),
        ("\n  \n", r"the map is empty"),
        ("S..\n.G\n...", r"ragged: row 1 \('\.G'\) has 2 cells, row 0 has 3"),
        ("S..\n.?G", r"unknown symbol '\?' at row 1, column 1"),
    ],
)
def test_bad_maps_are_refused_with_the_place(text, message):
    with pytest.raises(ValueError, match=message):
        maps.parse_map(text)


def test_find_lists_cells_in_reading_order():
    symbols = maps.parse_map("P.P\n.P.")
    assert maps.find(symbols, "P") == [(0, 0), (0, 2), (1, 1)]
    assert maps.find(symbols, "G") == []


def test_the_start_cell():
    assert maps.start_cell(maps.parse_map("..\n.S")) == (1, 1)
    with pytest.raises(ValueError, match=r"2 starts at \(0, 0\), \(1, 1\)"):
        maps.start_cell(maps.parse_map("S.\n.S"))
    with pytest.raises(ValueError, match=r"0 starts, and exactly one is needed"):
        maps.start_cell(maps.parse_map(".."))


def test_distances_by_hand():
    #  S . G      the wall makes the lower left corner 4 moves away from G
    #  . # #
    #  . . P
    symbols = maps.parse_map("S.G\n.##\n..P")
    assert maps.shortest_distances(symbols, [(0, 2)]).tolist() == [
        [2.0, 1.0, 0.0],
        [3.0, np.inf, np.inf],
        [4.0, 5.0, 6.0],
    ]


def test_distances_to_the_nearest_of_several_targets():
    symbols = maps.parse_map("G...G.")
    distances = maps.shortest_distances(symbols, maps.find(symbols, "G"))
    assert distances.tolist() == [[0, 1, 2, 1, 0, 1]]


@pytest.mark.parametrize("seed", range(8))
def test_distances_agree_with_brute_force(seed):
    generator = np.random.default_rng(seed)
    symbols = np.where(generator.random((5, 6)) < 0.35, "#", ".")
    target = maps.find(symbols, ".")[0]
    expected = walking_distances(symbols, target)
    np.testing.assert_array_equal(maps.shortest_distances(symbols, [target]), expected)


def test_a_goal_that_walls_cut_off_is_refused():
    with pytest.raises(
        ValueError, match=r"goal at \(0, 2\) cannot be reached from the cell \(0, 0"
    ):
        maps.check_goals_reachable(maps.parse_map("S#G"))
    with pytest.raises(ValueError, match=r"goal at \(0, 3\) cannot be reached .* \(0, 0\)"):
        maps.check_goals_reachable(maps.parse_map(".#.G"))
    maps.check_goals_reachable(maps.parse_map("S.G#."))  # the start can reach it


@pytest.mark.parametrize("wall_share", [0.0, 0.3, 0.6])
def test_random_maps_have_a_path_from_the_start_to_the_goal(wall_share):
    generator = np.random.default_rng(0)
    for _ in range(25):
        symbols = maps.parse_map(maps.random_map(5, 6, wall_share=wall_share, generator=generator))
        assert symbols.shape == (5, 6)
        goals = maps.find(symbols, "G")
        assert len(goals) == 1
        distances = walking_distances(symbols, goals[0])
        assert np.isfinite(distances[maps.start_cell(symbols)])
        assert np.isfinite(distances[symbols != "#"]).all()  # no open cell is cut off
        if wall_share == 0.0:
            assert not (symbols == "#").any()


def test_random_maps_follow_the_seed():
    first, again, other = (
        maps.random_map(6, 6, wall_share=0.3, generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("height", "width", "wall_share", "message"),
    [
        (1, 1, 0.0, "no room for S and G"),
        (0, 5, 0.0, "no room for S and G"),
        (-2, -3, 0.0, "no room for S and G"),
        (5, 5, 0.7, r"wall_share=0.7 must lie in \[0, 0.6\]"),
        (5, 5, -0.1, r"wall_share=-0.1 must lie"),
        (5, 5, np.nan, r"wall_share=nan must lie"),
    ],
)
def test_random_map_refuses_what_it_cannot_draw(height, width, wall_share, message):
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        maps.random_map(height, width, wall_share=wall_share, generator=generator)


NAMED_MAPS = ["CORRIDOR", "OPEN_5X5", "AIMA_4X3", "MAZE", "FOUR_ROOMS", "WINDY"]


@pytest.mark.parametrize("name", NAMED_MAPS)
def test_the_books_maps_are_sound(name):
    symbols = maps.parse_map(getattr(maps, name))
    maps.check_goals_reachable(symbols)
    assert len(maps.find(symbols, "G")) == 1
    maps.start_cell(symbols)


def test_the_books_maps_measure_what_they_are_known_for():
    def moves(text):
        symbols = maps.parse_map(text)
        return walking_distances(symbols, maps.find(symbols, "G")[0])[maps.start_cell(symbols)]

    assert moves(maps.CORRIDOR) == 4
    assert moves(maps.OPEN_5X5) == 4 + 4
    assert moves(maps.AIMA_4X3) == 2 + 3
    assert moves(maps.WINDY) == 7  # without the wind
    # Four rooms: 104 free cells in the paper's figure.
    assert (maps.parse_map(maps.FOUR_ROOMS) != "#").sum() == 104
