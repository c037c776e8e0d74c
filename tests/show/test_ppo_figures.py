import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlbook.show.ppo import clip_sliders, clipped_curve, draw_clip


def test_the_curve_by_hand() -> None:
    ratios = np.array([0.5, 1.0, 1.5])
    value, slope = clipped_curve(ratios, 1.0, clip=0.2)
    np.testing.assert_allclose(value, [0.5, 1.0, 1.2])  # above 1.2 nothing more is gained
    np.testing.assert_allclose(slope, [1.0, 1.0, 0.0])
    value, slope = clipped_curve(ratios, -1.0, clip=0.2)
    np.testing.assert_allclose(value, [-0.8, -1.0, -1.5])  # below 0.8 nothing more is gained
    np.testing.assert_allclose(slope, [0.0, -1.0, -1.0])


def test_the_upper_side_can_be_wider() -> None:
    value, slope = clipped_curve(np.array([1.3, 1.5]), 1.0, clip=0.2, clip_high=0.4)
    np.testing.assert_allclose(value, [1.3, 1.4])
    np.testing.assert_allclose(slope, [1.0, 0.0])


@pytest.mark.parametrize(("clip", "clip_high"), [(0.2, 0.2), (0.0, 0.0), (0.9, 1.4), (0.1, 0.4)])
def test_the_shaded_part_is_where_the_slope_is_zero(clip: float, clip_high: float) -> None:
    fig, _ = draw_clip(clip=clip, clip_high=clip_high)
    good, bad = fig.axes
    assert good.patches[0].get_x() == pytest.approx(1.0 + clip_high, abs=0.01)
    assert bad.patches[0].get_x() + bad.patches[0].get_width() == pytest.approx(
        max(1.0 - clip, 0.02), abs=0.01
    )
    plt.close(fig)


def test_the_words_name_value_and_slope_at_the_ratio() -> None:
    fig, words = draw_clip(clip=0.2, clip_high=0.2, ratio=1.3)
    plt.close(fig)
    assert words == "ratio 1.30; A = +1: 1.20, slope +0; A = -1: -1.30, slope -1"


def test_the_sliders_draw() -> None:
    box = clip_sliders()
    before = box.children[-1].value
    box.children[0].value = 0.5
    assert box.children[-1].value != before
