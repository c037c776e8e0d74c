"""Pictures of an estimated gradient: what is drawn is what was computed."""

import io

import ipywidgets
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from rlbook.show import policy_gradient as pictures
from rlbook.show.plots import RED, png_bytes


def coin(logit: float, baseline: float) -> tuple[np.ndarray, np.ndarray]:
    """Two arms that pay 6 and 2; the estimate is score · (reward - baseline), in one logit."""
    p = 1.0 / (1.0 + np.exp(-logit))
    return np.array([(1 - p) * (6 - baseline), -p * (2 - baseline)]), np.array([p, 1 - p])


def find(widget: ipywidgets.Widget, kind: type) -> list:
    inside = [w for child in getattr(widget, "children", ()) for w in find(child, kind)]
    return [widget, *inside] if isinstance(widget, kind) else inside


def test_moments_by_hand() -> None:
    # 0.25·0 + 0.75·4 = 3; 0.25·9 + 0.75·1 = 3
    assert pictures.moments(np.array([0.0, 4.0]), np.array([0.25, 0.75])) == pytest.approx((3, 3))
    # p = 1/2, no baseline: 3 and -1, mean 1 = p (1-p) (6-2), variance 4
    assert pictures.moments(*coin(0.0, 0.0)) == pytest.approx((1.0, 4.0))


def test_values_that_coincide_share_a_disc() -> None:
    estimates = np.array([[0.0, 1.0], [2.0, -1.0], [0.0, 1.0 + 1e-12]])
    fig = pictures.plot_cloud(
        estimates, np.array([0.2, 0.5, 0.3]), exact=np.array([1.0, 0.5]), xlabel="x", ylabel="y",
        limits=(-1.0, 3.0, -2.0, 2.0),
    )  # fmt: skip
    (ax,) = fig.axes
    (discs,) = ax.collections
    assert discs.get_offsets().tolist() == [[0.0, 1.0], [2.0, -1.0]]
    assert discs.get_sizes().tolist() == pytest.approx([1250.0, 1250.0])  # 0.2 + 0.3 and 0.5
    cross = ax.lines[0]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (1.0, 0.5)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1.0, 3.0), (-2.0, 2.0))


def test_bars_stand_in_order_with_their_values() -> None:
    fig = pictures.plot_bars({"a": 4.0, "b": 1.25}, xlabel="variance", decimals=2)
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches] == [4.0, 1.25]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.texts] == ["4.00", "1.25"]
    assert ax.yaxis_inverted() and ax.get_xlabel() == "variance"


def test_the_drawing_has_the_exact_mean_and_variance() -> None:
    # b = 4: 1 and 1, each with chance 1/2: mean 1, variance 0, the lowest there is
    draw = pictures.baseline_drawing(coin, limits=(-4.0, 8.0))
    fig, words = draw(logit=0.0, baseline=4.0)
    assert words == ("logit 0.00, baseline 4.00: mean 1.000, variance 0.00 (lowest near b = 4.00)")
    left, right = fig.axes
    heights = [patch.get_height() for patch in left.patches[: pictures.BINS]]
    assert sum(heights) == pytest.approx(100.0) and max(heights) == pytest.approx(100.0)
    parabola, dot = right.lines
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (4.0, pytest.approx(0.0))
    assert to_hex(dot.get_color()).upper() == RED
    # variance (4 - b)² / 4: each estimate is 1 ± (4 - b)/2
    np.testing.assert_allclose(
        parabola.get_ydata(), (4.0 - parabola.get_xdata()) ** 2 / 4.0, atol=1e-12
    )


def test_estimates_beyond_the_axis_are_counted_in_its_last_bars() -> None:
    fig, _ = pictures.baseline_drawing(coin, limits=(-0.5, 0.5))(logit=0.0, baseline=0.0)
    heights = [patch.get_height() for patch in fig.axes[0].patches[: pictures.BINS]]
    assert (heights[0], heights[-1]) == pytest.approx((50.0, 50.0))


def test_the_size_stays_and_the_mean_ignores_the_baseline() -> None:
    draw = pictures.baseline_drawing(coin, limits=(-4.0, 8.0))
    drawn = [draw(logit=1.0, baseline=b) for b in (-4.0, 0.0, 12.0)]
    assert len({words.split("mean ")[1].split(",")[0] for _, words in drawn}) == 1
    assert len({Image.open(io.BytesIO(png_bytes(fig))).size for fig, _ in drawn}) == 1


def test_both_sliders_change_the_picture() -> None:
    box = pictures.baseline_sliders(coin, limits=(-4.0, 8.0))
    logit, baseline = find(box, ipywidgets.FloatSlider)
    (image,), (text,) = find(box, ipywidgets.Image), find(box, ipywidgets.Label)
    first = image.value
    baseline.value = 4.0
    second = image.value
    assert second != first and "baseline 4.00" in text.value
    logit.value = 1.5
    assert image.value != second and "logit 1.50" in text.value
    logit.value = baseline.value = 0.0
    assert image.value == first
