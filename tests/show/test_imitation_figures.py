import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.packing import Example, rows_of
from rlbook.show.imitation import (
    FAINT,
    ceiling_sliders,
    ceilings,
    draw_ceilings,
    plot_attention_masks,
    plot_ceiling,
    plot_rows,
    plot_turns,
)


@pytest.fixture
def problems():
    return Arithmetic().problems(30, torch.Generator().manual_seed(0))


def test_a_conversation_keeps_its_order_and_names_its_speakers() -> None:
    fig = plot_turns([("<u>", "template"), ("hi there, you", "user"), ("hello", "policy")])
    ax = fig.axes[0]
    assert [text.get_text() for text in ax.texts] == ["<u>", "hi there, you", "hello"]
    assert [text.get_text() for text in ax.get_legend().texts] == ["template", "user", "policy"]
    widths = [patch.get_width() for patch in ax.patches[:3]]
    assert widths == [11, 15, 11]  # short pieces get the narrowest width and a margin
    plt.close(fig)


def test_a_stranger_in_a_conversation_is_refused() -> None:
    with pytest.raises(ValueError, match="is said by 'system'"):
        plot_turns([("be kind", "system")])


def test_rows_show_tokens_positions_and_what_is_learnt() -> None:
    rows = rows_of([[Example((0, 1, 2), 1), Example((1, 2), 0)], [Example((2, 2), 1)]], pad_id=0)
    ax = plot_rows(rows, "abc").axes[0]
    written = [text.get_text() for text in ax.texts]
    assert written[:10] == ["a", "0", "b", "1", "c", "2", "b", "0", "c", "1"]
    assert len(ax.patches) == 10 and len(ax.texts) == 2 * 7  # nothing is written into padding
    alphas = [patch.get_alpha() for patch in ax.patches]
    assert alphas[:5] == [FAINT, 1.0, 1.0, FAINT, 1.0]
    plt.close(ax.figure)


def test_masks_are_drawn_as_they_are() -> None:
    mask = torch.ones(3, 3).tril().bool()
    fig = plot_attention_masks({"causal": mask, "all": torch.ones(2, 2)})
    shown = [np.asarray(ax.images[0].get_array()) for ax in fig.axes]
    np.testing.assert_array_equal(shown[0], mask.numpy())
    assert [ax.get_title() for ax in fig.axes] == ["causal", "all"]
    plt.close(fig)


def test_the_ceiling_is_drawn_where_there_is_one() -> None:
    found = {"sampled": (0.5, 0.4, 0.7), "pass": (0.9, 0.8, 1.0)}
    fig = plot_ceiling({"a": found, "b": found}, {"sampled": 0.45})
    ax = fig.axes[0]
    lines = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in lines] == [0.45]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["sampled", "pass"]
    points = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
    assert any(np.allclose(y, [0.5, 0.9]) for y in points)
    plt.close(fig)


def test_ceilings_are_the_demonstrators_own(problems) -> None:
    task = Arithmetic(bias=0.7, noise=0.1)
    found = ceilings(problems, bias=0.7, noise=0.1)
    for way in ("sampled", "greedy", "majority"):
        assert found[way] == task.demonstrator_accuracy(problems, how=way).mean()
    assert ceilings(problems, bias=0.0, noise=0.0) == {
        "sampled": 1.0, "greedy": 1.0, "majority": 1.0
    }  # fmt: skip


def test_the_curves_pass_through_the_words(problems) -> None:
    fig, words = draw_ceilings(problems, bias=0.3, noise=0.18)
    now = ceilings(problems, bias=0.3, noise=0.18)
    assert words == "bias 0.30, noise 0.18: " + ", ".join(f"{w} {v:.3f}" for w, v in now.items())
    for ax, place in zip(fig.axes, (3, 2), strict=True):
        heights = [line.get_ydata()[place] for line in ax.lines[:3]]
        np.testing.assert_allclose(heights, list(now.values()))
    greedy = fig.axes[0].lines[1]
    np.testing.assert_allclose(greedy.get_xdata()[5:7], [0.5, 0.51])  # it falls between these
    assert greedy.get_ydata()[5] == 1.0 and greedy.get_ydata()[6] < 1.0
    plt.close(fig)


def test_the_sliders_draw(problems) -> None:
    box = ceiling_sliders(problems[:10])
    before = box.children[-1].value
    box.children[1].value = 0.4
    assert box.children[-1].value != before and "noise 0.40" in box.children[-2].value
