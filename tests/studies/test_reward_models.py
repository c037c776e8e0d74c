"""The studies of reward models: their parts by hand, and what their recorded runs say."""

from pathlib import Path

import pytest
import torch

from rlbook.lm.heads import load_scalar_model
from rlbook.lm.tasks.labellers import noise_ceiling
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.toy_language import FLATTERY, as_problem, parse, split_sentences
from rlbook.statistics import paired_interval
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


def test_edited_replies_differ_in_the_fact_alone() -> None:
    task = Replies()
    for c in reward_network.edited(task, 30, torch.Generator().manual_seed(0)):
        fact, _ = parse(c.prompt)
        texts = [set(split_sentences(text)) for text in (c.chosen, c.rejected)]
        says = [{s for s in text if fact.says(fact.answer) == s} for text in texts]
        wrong = [{s for s in text if s in map(fact.says, fact.wrong)} for text in texts]
        assert texts[0] - says[0] - wrong[0] == texts[1] - says[1] - wrong[1]
        assert sorted(map(len, says)) == sorted(map(len, wrong)) == [0, 1]


def test_each_stage_shows_what_it_is_named_after() -> None:
    task, generator = Replies(), torch.Generator().manual_seed(0)
    rankings = reward_network.examples(task, "rankings", 5, generator)
    assert [len(p.texts) for p in rankings] == [6] * 5
    shown = reward_network.examples(task, "edited", 20, generator)
    alone = [all(text.startswith("the ") and text.count(".") == 1 for text in p.texts)
             for p in shown]  # fmt: skip
    assert len(shown) == 20 and all(alone[-4:]) and not all(alone[:-4])


def test_the_expected_accuracy_is_that_of_many_choices() -> None:
    """Scores that rank perfectly give the noise ceiling; the opposite ones its complement."""
    task = Replies()
    pairs = task.comparisons(40, torch.Generator().manual_seed(0))
    model = load_scalar_model("replies-reward", device="cpu")
    ceiling = noise_ceiling(pairs)
    ours = reward_network.expected_accuracy(model, pairs)
    assert 1 - ceiling < ours <= ceiling
    with torch.no_grad():
        model.head.weight.neg_()
    assert reward_network.expected_accuracy(model, pairs) == pytest.approx(1 - ours, abs=1e-6)


def test_a_network_is_judged_on_the_way(monkeypatch, tmp_path) -> None:
    settings = reward_network.SETTINGS
    monkeypatch.setitem(settings, "held_out", dict.fromkeys(settings["held_out"], 6))
    monkeypatch.setitem(settings, "x", [0, 1, 3])
    monkeypatch.setitem(settings, "reference", 4)
    small = {stage: {"steps": 1, "batch_size": 2} for stage in settings["stages"]}
    monkeypatch.setitem(settings, "stages", small)
    monkeypatch.setitem(settings, "training", settings["training"] | {"warmup": 0})
    found = [reward_network.run(seed, tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    assert found[0] == found[1] != found[2]
    for kind in settings["held_out"]:
        assert len(found[0]["accuracy"][kind]) == 3
        assert found[0]["accuracy"][kind][-1] == found[0]["final"][f"reward, {kind}"]
    model = load_scalar_model(tmp_path / "0" / "replies-reward")
    card = (tmp_path / "0" / "replies-reward" / "README.md").read_text(encoding="utf-8")
    assert "load_scalar_model('replies-reward')" in card and model.head.bias.abs() > 0


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


def test_the_network_comes_near_the_ceiling_of_whole_replies_in_three_stages() -> None:
    run = recorded.load_run("reward-network", folder=RUNS)
    final, curves = run.curves("final"), run.curves("accuracy")
    x = run.settings["x"]
    assert len(run.seeds) >= 3
    on_labels = final["reward, whole, ceiling"] - final["reward, whole"]
    assert on_labels.mean() < 0.03  # on the 1,000 choices of each seed
    short = final["reward, whole, expected ceiling"] - final["reward, whole, expected"]
    assert 0.02 < short.mean() < 0.04  # with the luck of the labels taken out: 0.036, and so told
    assert (final["reward, statements"] > 0.9).all() and (final["reward, edited"] > 0.9).all()
    # each stage brings what it shows: whole replies come last, with the rankings
    whole = curves["whole"]
    assert (whole[:, x.index(1300)] < 0.7).all() and (whole[:, -1] > 0.75).all()
