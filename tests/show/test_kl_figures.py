import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from rlbook.lm.exact import sequence_logprobs
from rlbook.lm.tabular_lm import TabularLM
from rlbook.show.kl import (
    best_policy,
    beta_dial,
    draw_dial,
    frontier,
    plot_estimates,
    plot_frontier,
    plot_texts,
    reward_and_kl,
)

TEXTS = ["a", "b", "c"]


@pytest.fixture
def ref():
    model = TabularLM([[0]], vocab_size=3, max_new_tokens=1)
    return model.like(torch.tensor([[0.5, 0.25, 0.25]]).double().log())


REWARDS = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def test_the_best_policy_by_hand(ref) -> None:
    """β = 1 / log 2: weights ½, ¼, ¼·2, so 0.4, 0.2, 0.4; J = 0.4; KL = log 0.8 + 0.4 log 2."""
    best = best_policy(ref, REWARDS, 1 / np.log(2))
    found = sequence_logprobs(best).exp().detach().numpy()
    np.testing.assert_allclose(found, [0.4, 0.2, 0.4], atol=1e-12)
    reward, kl = reward_and_kl(best, ref, REWARDS)
    assert reward == pytest.approx(0.4)
    assert kl == pytest.approx(0.6 * np.log(0.8) + 0.4 * np.log(1.6))


def test_no_policy_lies_above_the_frontier(ref) -> None:
    curve = frontier(ref, REWARDS)
    assert (np.diff(curve[:, 0]) < 0).all() and (np.diff(curve[:, 1]) < 0).all()  # β rises
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        noise = torch.randn(ref.table.shape, generator=generator, dtype=torch.float64)
        reward, kl = reward_and_kl(ref.like(ref.table.detach() + noise), ref, REWARDS)
        if curve[:, 0].min() < kl < curve[:, 0].max():
            # 61 points, joined by straight lines under a concave curve: a few thousandths
            assert reward <= np.interp(kl, curve[::-1, 0], curve[::-1, 1]) + 5e-3


def test_texts_have_their_probabilities_and_the_rest_is_added_up(ref) -> None:
    ax = plot_texts({"ref": ref, "same": ref.like()}, TEXTS, ["c", "a"]).axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, [0.25, 0.5, 0.25] * 2)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["c", "a", "all\nothers"]
    plt.close(ax.figure)


def test_the_frontier_has_the_points_on_it(ref) -> None:
    ax = plot_frontier(frontier(ref, REWARDS), {"here": [(0.3, 0.1), (0.4, 0.2)]}).axes[0]
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [0.1, 0.2])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.3, 0.4])
    plt.close(ax.figure)


def test_three_estimates_over_the_log_ratio() -> None:
    ax = plot_estimates().axes[0]
    x = ax.lines[0].get_xdata()
    np.testing.assert_allclose(ax.lines[1].get_ydata(), x**2 / 2)
    np.testing.assert_allclose(ax.lines[2].get_ydata(), np.exp(-x) - 1 + x, atol=1e-12)
    plt.close(ax.figure)


def test_the_dial_says_what_it_draws(ref) -> None:
    fig, words = draw_dial(ref, REWARDS, TEXTS, ["a", "c"], log_beta=0.0)
    reward, kl = reward_and_kl(best_policy(ref, REWARDS, 1.0), ref, REWARDS)
    assert (
        words == f"β 1.00: reward {reward:.3f}, KL {kl:.3f} nats, reward - β·KL {reward - kl:.3f}"
    )
    most = np.log(0.75 + 0.25 * np.e)  # β log E_ref[exp(R/β)]
    assert reward - kl == pytest.approx(most)
    plt.close(fig)
    box = beta_dial(ref, REWARDS, TEXTS, ["a", "c"])
    before = box.children[-1].value
    box.children[0].value = -1.0
    assert box.children[-1].value != before and "β 0.10" in box.children[-2].value
