"""Pictures of blackjack: each cell shows the state that it stands for."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from rlbook.show.blackjack import plot_blackjack_policy, plot_blackjack_values
from rlbook.tabular.blackjack import HIT, STATES, STICK


def number(total: int, card: int, ace: int) -> int:
    return (total * 11 + card) * 2 + ace


def maps(fig: Figure) -> list:
    """The axes that hold a map; colour bars hold none with ticks for the cards."""
    return [ax for ax in fig.axes if ax.get_xlabel() == "dealer's showing card"]


def cell_of(ax, total: int, card: int) -> tuple[int, int]:
    """Row and column of a cell, read off the tick labels."""
    rows = [label.get_text() for label in ax.get_yticklabels()]
    columns = [label.get_text() for label in ax.get_xticklabels()]
    return rows.index(str(total)), columns.index("A" if card == 1 else str(card))


def test_values_stand_where_the_labels_say() -> None:
    V = np.arange(STATES, dtype=float)
    fig = plot_blackjack_values(V, title="V", colour_label="number of the state")
    without, with_ace = maps(fig)
    assert [ax.get_title() for ax in (without, with_ace)] == ["V: no usable ace", "V: usable ace"]
    for ace, ax in enumerate((without, with_ace)):
        picture = ax.images[0].get_array()
        assert picture.shape == (10, 10)
        for total in range(12, 22):
            for card in range(1, 11):
                assert picture[cell_of(ax, total, card)] == number(total, card, ace)
        # one scale for both: from sum 12, ace, no usable ace, to sum 21, ten, usable ace
        assert ax.images[0].get_clim() == (number(12, 1, 0), number(21, 10, 1))
        assert ax.get_ylabel() == "player's sum"
    assert [ax.get_ylabel() for ax in fig.axes].count("number of the state") == 2


def test_equal_values_can_be_drawn() -> None:
    low, high = maps(plot_blackjack_values(np.zeros(STATES)))[0].images[0].get_clim()
    assert low < high


@pytest.mark.parametrize("framed", [False, True])
def test_letters_are_the_actions(framed: bool) -> None:
    policy = np.zeros((STATES, 2))
    policy[:, STICK] = 1.0
    policy[number(13, 2, 1)] = np.eye(2)[HIT]
    policy[number(18, 10, 0)] = [0.75, 0.25]
    other = policy.copy()
    other[number(13, 2, 1)] = np.eye(2)[STICK]
    axes = maps(plot_blackjack_policy(policy, other=other if framed else None))
    for ace, ax in enumerate(axes):
        words = {tuple(map(round, t.get_position()[::-1])): t.get_text() for t in ax.texts}
        assert len(words) == 100
        odd = {cell_of(ax, 13, 2): "H"} if ace else {cell_of(ax, 18, 10): ".2"}
        assert {cell: word for cell, word in words.items() if word != "S"} == odd
        assert ax.images[0].get_array().sum() == ace
        frames = [p.get_center() for p in ax.patches]
        assert len(frames) == (ace if framed else 0)
        for x, y in frames:
            assert (round(y), round(x)) == cell_of(ax, 13, 2)
