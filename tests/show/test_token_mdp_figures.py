import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from rlbook.lm.exact import enumerate_responses, expected_reward, policy_gradient, prefix_values
from rlbook.lm.tabular_lm import TabularLM
from rlbook.show.token_mdp import (
    THICKEST,
    THINNEST,
    draw_moment,
    plot_tree,
    policy_drawing,
    policy_sliders,
    training_slider,
    tree_layout,
)

WORDS = ["a", "b", "∎"]


@pytest.fixture
def model() -> TabularLM:
    return TabularLM.with_eos(torch.Generator().manual_seed(0), prompts=[(2,)])


@pytest.fixture
def rewards(model: TabularLM) -> torch.Tensor:
    count = len(enumerate_responses(model))
    return torch.rand(count, generator=torch.Generator().manual_seed(1)).double()


def test_a_prefix_stands_amid_what_follows_it() -> None:
    # one token of two, at most two of them: responses aa, ab, ba, bb below one another
    model = TabularLM([[0]], vocab_size=2, max_new_tokens=2)
    places = tree_layout(model)
    assert [places[y] for y in ((0, 0), (0, 1), (1, 0), (1, 1))] == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert places[(0,)] == (1, 0.5) and places[(1,)] == (1, 2.5) and places[()] == (0, 1.5)


def test_no_two_texts_share_a_place(model: TabularLM) -> None:
    places = list(tree_layout(model).values())
    assert len(set(places)) == len(places) == len(model.space) + len(model.space.responses)


def test_discs_show_values_and_lines_probabilities(model: TabularLM, rewards: torch.Tensor) -> None:
    ax = plot_tree(model, rewards, WORDS).axes[0]
    values = [f"{v:.2f}" for v in prefix_values(model, rewards)[0].tolist()]
    written = [text.get_text() for text in ax.texts]
    assert [text for text in written if text in values][: len(values)] == values
    # A line for every prefix and token, as wide as the chance of the *whole* text up to there.
    pi = torch.softmax(model.table, dim=1)
    rows = {prefix: pi[s].tolist() for s, prefix in enumerate(model.space.prefixes)}
    chances = [
        np.prod([rows[text[:t]][text[t]] for t in range(len(text))])
        for text in ((*prefix, token) for prefix in rows for token in range(3))
    ]
    np.testing.assert_allclose(
        [line.get_linewidth() for line in ax.lines],
        [THINNEST + (THICKEST - THINNEST) * chance for chance in chances],
        rtol=1e-9,
    )
    assert [text for text in written if text in WORDS] == WORDS * len(rows)


def test_colours_are_values_and_rewards(model: TabularLM, rewards: torch.Tensor) -> None:
    ax = plot_tree(model, rewards, WORDS).axes[0]
    values = prefix_values(model, rewards)[0].tolist() + rewards.tolist()  # discs, then squares
    shown = [mark.get_facecolor()[0] for mark in ax.collections]
    np.testing.assert_allclose(shown, [plt.cm.viridis(value) for value in values])


def test_a_logit_and_the_temperature_move_the_values(
    model: TabularLM, rewards: torch.Tensor
) -> None:
    draw = policy_drawing(model, rewards, WORDS, {"b after a": ((0,), 1)})
    table = model.table.detach().clone()
    table[1, 1] = 3.0
    for temperature in (1.0, 0.5):
        fig, words = draw(temperature=temperature, **{"b after a": 3.0})
        plt.close(fig)
        J = expected_reward(model.like(table / temperature), rewards).item()
        assert words.endswith(f"{J:.3f}") and f"temperature {temperature:.2f}" in words


def test_a_moment_of_training(model: TabularLM, rewards: torch.Tensor) -> None:
    tables = [model.table.detach(), model.table.detach() + policy_gradient(model, rewards)]
    fig, words = draw_moment(model, tables, rewards, WORDS, moment=1)
    plt.close(fig)
    J = expected_reward(model.like(tables[1]), rewards).item()
    assert words == f"moment 1 of 1: J = {J:.3f}"


def test_the_sliders_draw(model: TabularLM, rewards: torch.Tensor) -> None:
    box = policy_sliders(model, rewards, WORDS, {"a": ((), 0)})
    before = box.children[-1].value
    assert box.children[1].value == pytest.approx(model.table[0, 0].item())
    box.children[1].value = 3.0
    assert box.children[-1].value != before
    box = training_slider(model, [model.table, model.table + 1, 3 * model.table], rewards, WORDS)
    before = box.children[-1].value
    box.children[0].value = 2
    assert box.children[-1].value != before
