"""Reward models: the loss against the formulas, learning a hidden taste, files, bad input."""

import copy
import json
import math
from itertools import islice

import pytest
import torch
from small_policies import small_policy

from rlbook.functional.preference_losses import bradley_terry_loss, k_wise_loss
from rlbook.lm.batch import responses_from_texts
from rlbook.lm.heads import ScalarModel, load_scalar_model, sequence_scores
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState
from rlbook.posttrain.reward_model import (
    LearnedReward,
    Preference,
    RewardModelConfig,
    centre,
    judge,
    load_preferences,
    preference_loss,
    score_preferences,
    train_reward_model,
)

DIGITS = "0123456789"


def reward_model(seed=0, dtype=None):
    generator = torch.Generator().manual_seed(seed)
    return ScalarModel(small_policy(dtype=dtype), init="reward", generator=generator)


def sevens(n, seed=0):
    """Pairs of random numbers: the one with more 7s was preferred."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    while len(found) < n:
        rows = torch.randint(10, (2, 6), generator=generator).tolist()
        rows = [[7 if d > 7 else d for d in row] for row in rows]
        a, b = ("".join(map(str, row)) for row in rows)
        if a.count("7") != b.count("7"):
            best = (a, b) if a.count("7") > b.count("7") else (b, a)
            found.append(Preference("1=", best))
    return found


def test_the_loss_is_the_formula_on_scores_read_one_by_one():
    model = reward_model(dtype=torch.float64)
    batch = [
        Preference("1=", ("7", "34")),
        Preference("2+3=", ("5.", "6", "7;")),
        Preference("9=", ("1", "2"), margin=0.5),
    ]
    one = {
        (p.prompt, text): sequence_scores(
            model, responses_from_texts(model.policy, [p.prompt], [text])
        )[0]
        for p in batch
        for text in p.texts
    }
    pair, three, wide = ([one[p.prompt, text] for text in p.texts] for p in batch)
    expected = (
        bradley_terry_loss(pair[0][None], pair[1][None])
        + k_wise_loss(torch.stack(three)[None])
        + bradley_terry_loss(wide[0][None], wide[1][None], margin=0.5)
    ) / 3
    scores, mask = score_preferences(model, batch)
    found = preference_loss(scores, mask, batch)
    torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-9)


def test_it_learns_what_was_preferred():
    model = reward_model()
    config = RewardModelConfig(steps=150, batch_size=32, learning_rate=3e-3)
    reports = list(train_reward_model(model, sevens(400), config))
    assert reports[0]["accuracy"] < 0.8
    held_out = judge(model, sevens(200, seed=1))
    assert held_out.accuracy > 0.9 and held_out.loss < 0.4
    assert math.isnan(held_out.longer_wins)  # all texts are as long
    assert sum(count for *_, count in held_out.calibration) == 200


def test_judging_by_hand():
    """A model that scores by length alone, judged on three pairs."""
    model = reward_model()

    def by_length(ids, mask, positions):  # the place of a token is what it says
        return positions.float()

    model.forward = by_length
    pairs = [
        Preference("1=", ("12", "3")),
        Preference("1=", ("4", "567")),
        Preference("1=", ("8", "9")),
    ]
    found = judge(model, pairs, bins=2)
    assert found.accuracy == pytest.approx((1 + 0 + 0.5) / 3)
    assert (found.longer_wins, found.longer_chosen) == (1.0, 0.5)
    # gaps 1, -2, 0; the alphabet presents 12, 4 and 8 first: σ(1), σ(-2), σ(0)
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2)) + math.log(2)) / 3
    assert found.loss == pytest.approx(expected, abs=1e-6)
    low, high = found.calibration
    assert low == pytest.approx((1 / (1 + math.exp(2)), 1.0, 1), abs=1e-6)
    assert high == pytest.approx(((1 / (1 + math.exp(-1)) + 0.5) / 2, 1.0, 2), abs=1e-6)


def test_centring_moves_the_mean_and_no_difference():
    model = reward_model()
    responses = responses_from_texts(model.policy, ["1="] * 3, ["7", "34", "5"])
    before = sequence_scores(model, responses)
    mean = centre(model, responses)
    after = sequence_scores(model, responses)
    assert mean == pytest.approx(before.mean().item())
    torch.testing.assert_close(after, before - before.mean())


def test_a_learned_reward_is_a_task_with_the_models_scores():
    model = reward_model()
    task = Task.from_functions(["1=", "2="], lambda p, t: [0.0] * len(t), max_new_tokens=8)
    learned = LearnedReward(task, model, cut_reward=-2.0)
    problems = learned.problems(2, torch.Generator().manual_seed(0))
    found = learned.rewards(problems, ["7", "34"], truncated=[False, True])
    scores = sequence_scores(
        model, responses_from_texts(model.policy, [p.prompt for p in problems], ["7", "34"])
    )
    assert found[0].item() == pytest.approx(scores[0].item(), abs=1e-6)
    assert found[1].item() == -2.0 and learned.max_new_tokens == 8


def test_going_on_is_bit_for_bit_the_same(tmp_path):
    config = RewardModelConfig(steps=6, batch_size=4)
    data, model = sevens(10), reward_model()
    whole = copy.deepcopy(model)
    reports = list(train_reward_model(whole, data, config))
    state = LoopState()
    list(islice(train_reward_model(model, data, config, state=state), 3))
    model.save(tmp_path / "model")
    state.save(tmp_path / "state.pt")
    model, state = load_scalar_model(tmp_path / "model"), LoopState.load(tmp_path / "state.pt")
    rest = list(train_reward_model(model, data, config, state=state))
    assert [r.metrics for r in rest] == [r.metrics for r in reports[3:]]


GOOD = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
SPOKEN = {
    "chosen": "Human: Name a colour.\n\nAssistant: Red.",
    "rejected": "Human: Name a colour.\n\nAssistant: Seven.",
}


def written(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_pairs_from_a_file(tmp_path):
    found = load_preferences(written(tmp_path, GOOD, "", GOOD | {"margin": 0.5}))
    assert found == [
        Preference("Name a colour.", ("Red.", "Seven.")),
        Preference("Name a colour.", ("Red.", "Seven."), margin=0.5),
    ]


def test_transcripts_become_chat_prompts(tmp_path):
    policy = small_policy()
    (found,) = load_preferences(written(tmp_path, SPOKEN), policy)
    assert found == Preference("<|user|>Name a colour.<|assistant|>", ("Red.", "Seven."))


def test_lines_that_cannot_be_used_are_named_and_the_rest_is_kept(tmp_path):
    lines = [
        GOOD,
        "{not json",
        {"prompt": "x", "chosen": "y"},
        GOOD | {"rejected": "Red."},
        SPOKEN,
    ]
    with pytest.warns(UserWarning, match="4 lines left out") as warned:
        found = load_preferences(written(tmp_path, *lines))
    assert len(found) == 1
    text = str(warned[0].message)
    for words in (
        "line 2: not JSON",
        "line 3: the field 'rejected' is missing",
        "line 4: chosen and rejected are the same",
        "line 5: the field 'prompt' is missing; for transcripts pass policy=",
    ):
        assert words in text
    with pytest.raises(ValueError, match="has no usable preference; line 1: not an object"):
        load_preferences(written(tmp_path, "[1]"))


def test_preferences_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        Preference("1", ("2",))
    with pytest.raises(ValueError, match="two responses are the same"):
        Preference("1", ("2", "2"))
    with pytest.raises(ValueError, match="belongs to a pair"):
        Preference("1", ("2", "3", "4"), margin=1.0)
    with pytest.raises(ValueError, match="there are no preferences"):
        next(train_reward_model(reward_model(), [], RewardModelConfig()))
    with pytest.raises(ValueError, match="judge takes pairs"):
        judge(reward_model(), [Preference("1", ("2", "3", "4"))])


def test_the_rate_warms_up_and_falls_and_the_optimiser_takes_its_settings():
    config = RewardModelConfig(steps=6, batch_size=2, learning_rate=1e-2, warmup=2)
    rates = [r["learning_rate"] for r in train_reward_model(reward_model(), sevens(8), config)]
    assert rates[0] < rates[1] <= max(rates) == pytest.approx(1e-2, rel=0.2)
    assert rates[-1] < rates[2]
    plain, decayed, other = (copy.deepcopy(reward_model()) for _ in range(3))
    for model, changes in ((plain, {}), (decayed, {"weight_decay": 5.0}),
                           (other, {"betas": (0.0, 0.9)})):  # fmt: skip
        list(train_reward_model(model, sevens(8), RewardModelConfig(steps=3, **changes)))
    assert not torch.equal(plain.head.weight, decayed.head.weight)
    assert not torch.equal(plain.head.weight, other.head.weight)
