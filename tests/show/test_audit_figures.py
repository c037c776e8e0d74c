"""Audits as a table and as a figure: the numbers shown are the audits' own."""

import math

import matplotlib.pyplot as plt
import pytest
import torch

from rlbook.audit import audit
from rlbook.functional.kl import kl_k1, kl_k2, kl_k3
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.show.audit import audit_table, best_target, noise, plot_audits


def reinforce(logprobs, old, ref, rewards, mask):
    losses = reinforce_loss(logprobs, rewards[:, None].expand_as(logprobs))
    return aggregate(losses, mask, "fixed-length", length=1)


def penalty(estimate):
    def loss(logprobs, old, ref, rewards, mask):
        return aggregate(estimate(logprobs, ref), mask, "fixed-length", length=1)

    return loss


@pytest.fixture(scope="module")
def audits():
    losses = {"REINFORCE": reinforce} | {f.__name__: penalty(f) for f in (kl_k1, kl_k2, kl_k3)}
    return {name: audit(loss) for name, loss in losses.items()}


def test_each_loss_is_shown_against_what_explains_it(audits) -> None:
    assert [best_target(found) for found in audits.values()] == [
        "J", "J", "KL(π‖ref) at fixed prefixes", "KL(ref‖π) at fixed prefixes"
    ]  # fmt: skip


def test_the_table_has_a_row_for_each_loss_and_wraps_its_verdict(audits) -> None:
    table = audit_table(audits)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 110
    rows = {line.split("  ")[0]: line for line in lines if not line.startswith(" ")}
    assert list(rows) == ["loss", *audits]
    assert rows["REINFORCE"].split()[1:5] == ["J", "1.000", "1.000", "0"]
    assert " -1.000   -1.000          0  " in rows["kl_k3"]
    assert rows["kl_k1"].split()[1:5] == ["–"] * 4
    words = " ".join(line[lines[0].index("verdict") :] for line in lines)
    for found in audits.values():
        assert found.verdict in words


def test_against_one_gradient_or_one_for_each(audits) -> None:
    one = audit_table(audits, against="KL(π‖ref)")
    share = audits["kl_k2"].bias["KL(π‖ref)"]
    assert share > 0.01 and f"{share:.3f}" in one
    each = audit_table(audits, against={"kl_k2": "KL(π‖ref)"})
    assert f"{share:.3f}" in each and "KL(ref‖π) at fixed prefixes" in each
    with pytest.raises(ValueError, match=r"'REINFORCE' was not compared with 'pass@2'; there are"):
        audit_table(audits, against="pass@2")
    with pytest.raises(ValueError, match="no audit to show"):
        plot_audits({})


def test_noise_by_hand() -> None:
    """π = ½, ½ and rewards 1 and 0: E = (¼, -¼), variance 1/8, so √(1/8) / √(1/8) = 1."""
    from rlbook.lm.tabular_lm import TabularLM

    model = TabularLM([[0]], vocab_size=2, max_new_tokens=1)
    found = audit(reinforce, model=model, rewards=torch.tensor([1.0, 0.0]).double())
    assert noise(found) == pytest.approx(1.0, abs=1e-9)


def test_the_figure_shows_bias_and_noise(audits) -> None:
    fig = plot_audits(audits, against={"kl_k2": "KL(π‖ref)"})
    left, right = fig.axes
    widths = [bar.get_width() for bar in left.patches]
    assert widths[2] == pytest.approx(audits["kl_k2"].bias["KL(π‖ref)"])
    assert widths[1] == 0.0 and widths[3] < 1e-8
    assert left.texts[1].get_text() == "no mean gradient"
    written = [text.get_text() for text in right.texts]
    assert written[0] == f"{noise(audits['REINFORCE']):.1f}"
    assert written[1] == "noise alone" and math.isinf(noise(audits["kl_k1"]))
    assert right.get_xscale() == "log"
    assert left.get_yticklabels()[2].get_text() == "kl_k2\n~ ∇KL(π‖ref)"
    assert left.yaxis_inverted() and right.yaxis_inverted()
    plt.close(fig)
