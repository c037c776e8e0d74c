"""The source that a chapter shows, and texts coloured token by token."""

import numpy as np
import pytest
from IPython.display import Code

from rlbook.show.text import plot_tokens, show_source
from rlbook.tabular.planning import value_iteration


def shown(monkeypatch: pytest.MonkeyPatch, thing: object) -> Code:
    calls: list[Code] = []
    monkeypatch.setattr("IPython.display.display", calls.append)
    show_source(thing)
    (code,) = calls
    return code


def test_the_source_of_a_function_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    code = shown(monkeypatch, value_iteration)
    assert "def value_iteration(" in code.data and "Book: 03_planning" in code.data
    assert "policy_iteration(mdp" not in code.data  # and not that of its neighbours


def test_it_is_coloured_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    code = shown(monkeypatch, value_iteration)
    assert code.language == "python" and "<span" in code._repr_html_()
    assert "def" in repr(code)  # plain text elsewhere


def test_a_class_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        answer = 42

    assert "answer = 42" in shown(monkeypatch, Small).data


def test_tokens_stand_on_the_colour_of_their_numbers() -> None:
    fig = plot_tokens([["a", "b"], ["c"]], [[0.5, -0.25], [0.004]], colour_label="advantage")
    ax = fig.axes[0]
    (picture,) = ax.images
    np.testing.assert_array_equal(
        picture.get_array().filled(np.nan), [[0.5, -0.25], [0.004, np.nan]]
    )
    assert picture.get_clim() == (-0.5, 0.5)  # 0 is the middle of the colours
    shown = [(t.get_text(), t.get_position()[0]) for t in ax.texts]
    assert shown == [("a", 0), ("0.50", 0), ("b", 1), ("-0.25", 1), ("c", 0), ("0.00", 0)]


def test_the_scale_of_unsigned_numbers_is_their_range() -> None:
    fig = plot_tokens([["a", "b"]], [[1.0, 3.0]], colour_label="V", signed=False, names=["row"])
    assert fig.axes[0].images[0].get_clim() == (1.0, 3.0)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["row"]
    fig = plot_tokens([["a"]], [[1.0]], colour_label="V", limits=(0.0, 2.0))
    assert fig.axes[0].images[0].get_clim() == (0.0, 2.0)


@pytest.mark.parametrize(("rows", "numbers"), [([["a", "b"]], [[1.0]]), ([[]], [[]]), ([], [])])
def test_one_number_per_token_is_needed(rows: list, numbers: list) -> None:
    with pytest.raises(ValueError, match="one number per token"):
        plot_tokens(rows, numbers, colour_label="V")
