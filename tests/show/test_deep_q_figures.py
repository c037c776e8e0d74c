"""The pictures of chapter 06 show the numbers that they are given."""

import ipywidgets
import numpy as np
import pytest

from rlbook.show import deep_q as show
from rlbook.show.plots import png_bytes

# --- two states that share a weight ----------------------------------------------------------


def test_weights_by_hand() -> None:
    # Only A: 1 + 0.5 (2·0.75·1 - 1) = 1.25, and 1.25² = 1.5625.
    weights = show.two_state_weights(gamma=0.75, alpha=0.5, share=0.0, steps=2)
    assert weights.tolist() == [1.0, 1.25, 1.5625]
    # Only B: 1 + 0.125 (-4) = 0.5. Half and half: 1 + 0.125 (0.5·(1.5 - 1) - 2) = 0.78125.
    assert show.two_state_weights(gamma=0.75, alpha=0.125, share=1.0, steps=1)[-1] == 0.5
    assert show.two_state_weights(gamma=0.75, alpha=0.125, share=0.5, steps=1)[-1] == 0.78125


def test_a_frozen_target_by_hand() -> None:
    # The target is 2·0.75·1 = 1.5 for two updates, 1.25 and 1.375; then 2·0.75·1.375 = 2.0625.
    weights = show.two_state_weights(gamma=0.75, alpha=0.5, share=0.0, period=2, steps=3)
    assert weights.tolist() == [1.0, 1.25, 1.375, (1.375 + 2.0625) / 2]


def test_it_is_the_expected_step_of_sampled_semi_gradient_updates() -> None:
    """Each state is updated by itself, V = feature · w, and the steps are averaged."""
    features = np.array([1.0, 2.0])
    w, alpha, gamma, share = 0.7, 0.1, 0.9, 0.3
    targets = np.array([gamma * features[1] * w, 0.0])
    steps = (targets - features * w) * features
    expected = w + alpha * np.array([1 - share, share]) @ steps
    found = show.two_state_weights(gamma=gamma, alpha=alpha, share=share, steps=1, first=w)[-1]
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("gamma", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("period", [1, 7])
def test_it_grows_exactly_below_the_share_of_the_chapter(gamma: float, period: int) -> None:
    """(1 - μ)(2γ - 1) > 4μ, that is μ < (2γ - 1) / (2γ + 3), whatever the period."""
    edge = (2 * gamma - 1) / (2 * gamma + 3)
    for share, grows in ((0.9 * edge, True), (1.1 * edge, False)):
        weights = show.two_state_weights(
            gamma=gamma, alpha=0.1, share=share, period=period, steps=700
        )
        assert (weights[-1] > 1.0) == grows


def test_the_picture_says_what_it_shows() -> None:
    fig, words = show.draw_two_states(gamma=0.9, alpha=0.1, share=0.0, steps=60)
    assert words == f"|w| grows: {1.08**60:.3g} after 60 updates"
    (line, _) = fig.axes[1].lines
    assert line.get_ydata() == pytest.approx(1.08 ** np.arange(61))
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert "100% updates" in texts and "target 0.9 · 2w" in texts
    png_bytes(fig)
    fig, words = show.draw_two_states(gamma=0.9, alpha=0.1, share=0.5, steps=60)
    assert words.startswith("|w| shrinks: ")
    png_bytes(fig)
    fig, words = show.draw_two_states(gamma=0.5, alpha=0.1, share=0.0, steps=5)
    assert words == "|w| stays: 1 after 5 updates"
    png_bytes(fig)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("alpha", [0.02, 0.4])
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("period", [1, 30])
def test_the_corners_of_the_sliders(gamma, alpha, share, period) -> None:
    fig, words = show.draw_two_states(gamma=gamma, alpha=alpha, share=share, period=period)
    assert words.startswith("|w| ") and "nan" not in words
    low, high = fig.axes[1].get_ylim()
    assert all(((line.get_ydata() >= low) & (line.get_ydata() <= high)).all()
               for line in fig.axes[1].lines)  # fmt: skip
    png_bytes(fig)


def test_the_sliders_redraw() -> None:
    widget = show.two_states_sliders(steps=20)
    *sliders, label, image = widget.children
    assert [slider.description for slider in sliders] == ["γ", "α", "μ (in B)", "period"]
    before, picture = label.value, image.value
    assert before == f"|w| grows: {1.08**20:.3g} after 20 updates"
    sliders[2].value = 0.5
    assert label.value.startswith("|w| shrinks") and image.value != picture
    assert isinstance(image, ipywidgets.Image)


# --- a ring of memory slots ------------------------------------------------------------------


def test_ring_by_hand() -> None:
    assert show.ring_contents(4, 0) == [None] * 4
    assert show.ring_contents(4, 3) == [0, 1, 2, None]
    assert show.ring_contents(4, 4) == [0, 1, 2, 3]
    assert show.ring_contents(4, 6) == [4, 5, 2, 3]
    assert show.ring_contents(4, 9) == [8, 5, 6, 7]


def test_the_ring_is_that_of_the_exercise() -> None:
    from rlbook.checks.deep_q import ring_write

    memory = np.full(5, -1.0)
    for count in range(17):
        shown = [-1 if item is None else item for item in show.ring_contents(5, count)]
        assert memory.tolist() == shown
        memory = ring_write(memory, count, np.array([float(count)]))


def test_the_rows_of_the_ring() -> None:
    fig, words = show.draw_ring(4, (3, 6))
    assert words == "after 3: items 0 to 2; after 6: items 2 to 5"
    first, second = fig.axes
    assert [text.get_text() for text in first.texts] == ["0", "1", "2", ""]
    assert [text.get_text() for text in second.texts] == ["4", "5", "2", "3"]
    assert not first.lines
    (seam,) = second.lines
    assert set(seam.get_xdata()) == {1.5}  # behind item 5, in slot 1
    colours = [patch.get_facecolor() for patch in second.patches]
    assert colours[1] not in (colours[0], colours[2], colours[3])
    png_bytes(fig)
