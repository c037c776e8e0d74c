"""The source that a chapter shows is the source of the function, ready to be read."""

import pytest
from IPython.display import Code

from rlbook.show.text import show_source
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
