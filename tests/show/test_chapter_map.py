"""The layout of the chapter map: what is drawn, where, and that no arrow crosses a box."""

import itertools

import numpy as np
import pytest

from rlbook.book.manifest import read_book
from rlbook.show.chapter_map import HALF_HEIGHT, HALF_WIDTH, place, transitive_reduction, way


def reachable(edges: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs joined by a way, by repeated joining: the slow and obvious form."""
    pairs = set(edges)
    while True:
        longer = {(a, d) for a, b in pairs for c, d in pairs if b == c}
        if longer <= pairs:
            return pairs
        pairs |= longer


def book_map(root) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    book = read_book(root / "book.yml")
    start = ["00_welcome", "A1_pytorch"]
    parts = {"Start here": start}
    for part in book.parts:
        rest = [chapter.slug for chapter in part.chapters if chapter.slug not in start]
        if rest:
            parts[part.caption] = rest
    return parts, transitive_reduction(book.prerequisite_edges())


def crosses(p: tuple[float, float], q: tuple[float, float], box: tuple[float, float]) -> bool:
    """Whether the straight line from p to q enters the inside of the box around a point."""
    for t in np.linspace(0.0, 1.0, 400):
        x, y = p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])
        if abs(x - box[0]) < HALF_WIDTH - 1e-6 and abs(y - box[1]) < HALF_HEIGHT - 1e-6:
            return True
    return False


# --- transitive reduction --------------------------------------------------------------------


def test_an_edge_that_a_longer_way_implies_is_left_out() -> None:
    edges = [("1", "2"), ("2", "3"), ("1", "3"), ("3", "4"), ("1", "4")]
    assert transitive_reduction(edges) == [("1", "2"), ("2", "3"), ("3", "4")]


def test_both_sides_of_a_diamond_stay() -> None:
    edges = [("1", "2"), ("1", "3"), ("2", "4"), ("3", "4")]
    assert transitive_reduction(edges) == edges


def test_an_edge_given_twice_is_drawn_once() -> None:
    assert transitive_reduction([("1", "2"), ("1", "2")]) == [("1", "2")]


@pytest.mark.parametrize("seed", range(20))
def test_reduction_keeps_what_is_reachable_and_is_minimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [p for p in itertools.combinations("abcdefgh", 2) if rng.random() < 0.4]
    reduced = transitive_reduction(pairs)
    assert reachable(reduced) == reachable(pairs)
    for edge in reduced:  # none of them can be spared
        assert reachable([e for e in reduced if e != edge]) != reachable(pairs)


# --- where things go -------------------------------------------------------------------------


def test_parts_are_rows_in_their_own_order() -> None:
    at = place({"I": ["a", "b", "c"], "II": ["d", "e"]}, [("b", "d"), ("c", "e")])
    assert [at[slug][1] for slug in "abcde"] == [0, 0, 0, -1, -1]
    assert at["a"][0] < at["b"][0] < at["c"][0]
    assert at["d"] == (at["b"][0], -1) and at["e"] == (at["c"][0], -1)  # shifted below its needs


def test_neighbours_are_joined_side_to_side() -> None:
    at = {"a": (0.0, 0.0), "b": (1.0, 0.0)}
    assert way(at, ("a", "b")) == [(HALF_WIDTH, 0.0), (1.0 - HALF_WIDTH, 0.0)]


def test_an_arrow_past_a_neighbour_bows_below_it() -> None:
    at = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (2.0, 0.0)}
    points = way(at, ("a", "c"))
    assert points[0][1] == points[-1][1] == -HALF_HEIGHT
    assert all(y < -HALF_HEIGHT for _, y in points[1:-1])


def test_an_arrow_goes_round_a_box_that_is_in_its_way() -> None:
    at = {"a": (1.0, 0.0), "b": (1.0, -1.0), "c": (1.0, -2.0)}
    points = way(at, ("a", "c"))
    assert crosses((1.0, -HALF_HEIGHT), (1.0, HALF_HEIGHT - 2), at["b"])  # the straight line would
    assert not any(crosses(p, q, at["b"]) for p, q in itertools.pairwise(points))


def test_no_arrow_of_the_book_crosses_a_chapter(root) -> None:
    parts, edges = book_map(root)
    at = place(parts, edges)
    for edge in edges:
        for p, q in itertools.pairwise(way(at, edge)):
            hit = [slug for slug, box in at.items() if crosses(p, q, box)]
            assert not hit, f"the arrow {edge} crosses {hit}"


def test_every_arrow_of_the_book_goes_down_or_to_the_right(root) -> None:
    parts, edges = book_map(root)
    at = place(parts, edges)
    for before, after in edges:
        (x0, y0), (x1, y1) = at[before], at[after]
        assert y1 < y0 or (y1 == y0 and x1 > x0), (before, after)


def test_boxes_do_not_touch(root) -> None:
    parts, edges = book_map(root)
    for (x0, y0), (x1, y1) in itertools.combinations(place(parts, edges).values(), 2):
        assert abs(x0 - x1) > 2 * HALF_WIDTH or abs(y0 - y1) > 2 * HALF_HEIGHT
