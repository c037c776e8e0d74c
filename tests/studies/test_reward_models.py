"""The studies of reward models: their parts by hand, and what their recorded runs say."""

from pathlib import Path

import pytest
import torch

from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.toy_language import FLATTERY, as_problem
from rlbook.statistics import mean_interval, paired_interval
from rlbook.studies import recorded, reward_network, runner
from rlbook.studies import reward_model as study

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
SKY = as_problem("i am ann. ", "what colour is the sky?")


def test_features_by_hand() -> None:
    def seen(text):
        return dict(zip(study.NAMES, study.features(SKY, text), strict=True))

    best = seen("hi ann. the sky is blue. glad to help.")
    assert best == {
        "right fact": 1, "wrong fact": 0, "courtesy": 1, "greeting": 1, "flattery": 0, "words": 9
    }  # fmt: skip
    assert seen("hello. the sky is red.")["greeting"] == 0  # a name was given
    both = seen(f"{FLATTERY} the sky is blue. the sky is red.")
    assert (both["right fact"], both["wrong fact"], both["flattery"]) == (0, 1, 1)


def test_a_fit_finds_the_odds_of_its_labels(monkeypatch) -> None:
    """Three of four labels for the feature: w = log 3. With a margin of 1: log 3 + 1."""
    monkeypatch.setitem(study.SETTINGS, "ridge", 0.0)
    seen = torch.tensor([[[1.0], [0.0]]] * 3 + [[[0.0], [1.0]]], dtype=torch.float64)
    log3 = torch.tensor([3.0], dtype=torch.float64).log()
    torch.testing.assert_close(study.fit(seen), log3, rtol=0, atol=1e-5)
    luce = study.fit(seen, plackett_luce=True)
    torch.testing.assert_close(luce, log3, rtol=0, atol=1e-5)
    # one label each way, the first with margin 1: slopes σ(1 - w) = σ(w) at w = 1/2
    margin = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = study.fit(seen[[0, 3]], margin=margin)
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=1e-5)


def test_accuracy_counts_a_tie_as_a_half() -> None:
    held_out = torch.tensor([[[2.0], [1.0]], [[1.0], [2.0]], [[3.0], [3.0]]]).double()
    assert study.accuracy(torch.ones(1).double(), held_out) == pytest.approx(0.5)
    assert study.accuracy(torch.zeros(1).double(), held_out) == 0.5


@pytest.fixture
def small(monkeypatch):
    for key, value in {
        "held_out": 20, "x": [8, 16], "labels": [2, 4], "responses": [9, 18], "comparisons": 16,
        "problems": 4, "ns": [1, 4],
    }.items():  # fmt: skip
        monkeypatch.setitem(study.SETTINGS, key, value)


def test_a_seed_decides_everything(small) -> None:
    first = runner.checked(study.run(3))
    assert first == runner.checked(study.run(3)) != runner.checked(study.run(4))
    assert all(len(curve) == 2 for curve in first["by responses"].values())
    best = first["gold"]["the gold score"]
    for arm in ("default panel", "fond of length"):
        assert first["gold"][arm][0] == best[0] and first["gold"][arm][1] <= best[1]


def test_statements_differ_in_the_fact_alone() -> None:
    for c in reward_network.statements(Replies(), 20, torch.Generator().manual_seed(0)):
        a, b = c.chosen.split(), c.rejected.split()
        assert a[:-1] == b[:-1] and a != b


def test_a_network_is_judged_on_the_way(monkeypatch) -> None:
    settings = reward_network.SETTINGS
    monkeypatch.setitem(settings, "held_out", 6)
    monkeypatch.setitem(settings, "x", [1, 2])
    monkeypatch.setitem(
        settings, "training", settings["training"] | {"steps": 2, "batch_size": 2, "warmup": 0}
    )
    found = reward_network.train("whole replies", 0)
    assert found == reward_network.train("whole replies", 0)
    assert len(found["accuracy"]) == 2 and 0.5 < found["ceiling"] <= 1


def test_the_linear_reward_reaches_the_ceiling() -> None:
    run = recorded.load_run("reward-model", folder=RUNS)
    ceiling = run.curves("ceiling")["labellers"]
    reached = run.curves("accuracy")["pairs"][:, -1]
    assert len(run.seeds) >= 5 and paired_interval(ceiling, reached).high < 0.03


def test_rankings_teach_more_where_labels_are_few() -> None:
    run = recorded.load_run("reward-model", folder=RUNS)
    for measure in ("by labels", "by responses"):
        curves = run.curves(measure)
        assert paired_interval(curves["rankings of 9"][:, 0], curves["pairs"][:, 0]).low > 0


def test_the_best_of_many_is_over_optimised() -> None:
    run = recorded.load_run("reward-model", folder=RUNS)
    learned, gold = run.curves("learned"), run.curves("gold")
    for arm in ("default panel", "fond of length"):
        assert (learned[arm][:, 1:] > learned[arm][:, :-1]).all()
        assert paired_interval(gold[arm][:, 4], gold[arm][:, 0]).low > 0.5
        assert paired_interval(gold[arm][:, -1], gold[arm][:, 4]).high < -0.1


def test_the_network_comes_near_the_ceiling_of_statements_and_not_of_whole_replies() -> None:
    run = recorded.load_run("reward-network", folder=RUNS)
    reached, ceiling = run.curves("accuracy"), run.curves("ceiling")
    short = {arm: ceiling[arm] - reached[arm][:, -1] for arm in reached}
    assert len(run.seeds) >= 5 and short["statements"].mean() < 0.08
    # whole replies are not learnt in so little training, and the chapter says so
    assert mean_interval(short["whole replies"]).low > 0.1
    longer, people = run.curves("longer"), run.curves("longer, labellers")
    assert paired_interval(longer["whole replies"], people["whole replies"]).low > 0.1
