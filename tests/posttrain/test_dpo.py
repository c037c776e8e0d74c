"""DPO, IPO, KTO: by hand, at the exact optimum, against slow loops, against trl; the loop."""

import copy
import math
from collections import defaultdict
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from mixed_batches import mixed_batch
from small_policies import CHARACTERS, small_policy

from rlbook.functional.preference_losses import bradley_terry_loss
from rlbook.lm.batch import concatenate, responses_from_texts
from rlbook.lm.exact import matching, sequence_logprobs
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState
from rlbook.posttrain.dpo import (
    METRICS,
    DPOConfig,
    dpo,
    preference_objective,
    reference_logprobs,
    sample_pairs,
    step,
)
from rlbook.posttrain.pairs import (
    best_and_worst,
    encode_pairs,
    pair_logprobs,
    pair_pieces,
    preferences_of,
)
from rlbook.posttrain.reward_model import Preference, preference_from_record

CONFIG = DPOConfig(steps=4, batch_size=3, learning_rate=1e-3)
PAIRS = [
    Preference("1+", ("7", "34")),
    Preference("2+3=", ("5.", "6;")),
    Preference("9=", ("", "123456")),
    Preference("4*", ("77777", "1")),
    Preference("9=", ("8-", "2")),
    Preference("5", ("12345678", "0")),
    Preference("2+3=", ("33", "7.")),
    Preference("12+12=", ("4", "44")),
]
KINDS = {
    "dpo": {"loss": "dpo"},
    "dpo, smoothed": {"loss": "dpo", "label_smoothing": 0.1},
    "dpo, per token": {"loss": "dpo", "per_token": True},
    "ipo": {"loss": "ipo"},
    "ipo, per token": {"loss": "ipo", "per_token": True},
    "kto": {"loss": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.5},
}


@pytest.fixture
def pad_is_end(exact_policy) -> Policy:
    """As GPT-2: what fills rows up is the token that ends them."""
    exact_policy.tokenizer.pad_token = exact_policy.tokenizer.eos_token
    return exact_policy


def sevens(prompts, texts):
    return [text.count("7") / max(len(text), 1) for text in texts]


def ready(policy, config, ref, pairs=PAIRS):
    """The pairs as tensors, and their log-probabilities under the reference."""
    data = encode_pairs(policy, pairs, with_other=config.loss == "kto")
    return data, reference_logprobs(ref, data, config)


def gradient_of_step(policy, data, reference, rows, config):
    held = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    metrics = step(policy, held, data, reference, rows, replace(config, max_grad_norm=None))
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()]), metrics


# --- the loss, by hand ---------------------------------------------------------------------------


def test_one_pair_by_hand():
    """Log-ratios 2 log 3 and log 3, β = 1: margin log 3, σ = 3/4; lengths 2 and 1: margin 0."""
    three = math.log(3.0)
    logprobs = torch.tensor([[-1.0 + 2 * three], [-2.0 + three]], dtype=torch.float64)
    reference = torch.tensor([[-1.0], [-2.0]], dtype=torch.float64)
    lengths = torch.tensor([[2], [1]])

    def loss_of(**changes):
        config = replace(DPOConfig(beta=1.0), **changes)
        return preference_objective(logprobs, reference, lengths, config, kl=three, denominator=1)

    loss, metrics = loss_of()
    assert loss.item() == pytest.approx(math.log(4 / 3))
    assert metrics == pytest.approx(
        {
            "chosen": -1 + 2 * three, "rejected": -2 + three, "chosen_change": 2 * three,
            "rejected_change": three, "margin": three, "accuracy": 1.0,
        }
    )  # fmt: skip
    smooth = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert loss_of(label_smoothing=0.1)[0].item() == pytest.approx(smooth)
    loss, metrics = loss_of(per_token=True)
    assert loss.item() == pytest.approx(math.log(2)) and metrics["accuracy"] == 0.5
    assert metrics["chosen_change"] == pytest.approx(2 * three)  # of the whole response as before
    assert loss_of(loss="ipo")[0].item() == pytest.approx((three - 0.5) ** 2)
    # KTO, z = log 3: good 1 - σ(log 3) = 1/4, bad 1 - σ(0) = 1/2; the mean of the two
    assert loss_of(loss="kto")[0].item() == pytest.approx((0.25 + 0.5) / 2)
    weighted = loss_of(loss="kto", desirable_weight=3.0, undesirable_weight=2.0)[0]
    assert weighted.item() == pytest.approx((0.75 + 1.0) / 2)


def test_the_exact_optimum_has_the_true_reward_as_its_margin():
    """On every pair of responses of a TabularLM with π* ∝ π_ref e^{r/β}: Bradley-Terry of r, and
    labels drawn by Bradley-Terry give DPO no gradient there."""
    generator = torch.Generator().manual_seed(0)
    ref, beta = TabularLM.with_eos(generator), 0.7
    rewards = torch.rand(15, generator=generator, dtype=torch.float64)
    best = matching(ref, sequence_logprobs(ref).detach() + rewards / beta)
    first, second = torch.triu_indices(15, 15, offset=1)
    config = DPOConfig(beta=beta)
    own, base = sequence_logprobs(best), sequence_logprobs(ref).detach()
    lengths = torch.ones(2, len(first), dtype=torch.long)

    def losses(a, b):
        logprobs, reference = torch.stack([own[a], own[b]]), torch.stack([base[a], base[b]])
        return preference_objective(logprobs, reference, lengths, config, denominator=1)

    loss, metrics = losses(first, second)
    true = bradley_terry_loss(rewards[first], rewards[second])
    assert loss.item() == pytest.approx(true.sum().item(), abs=1e-9)
    gaps = rewards[first] - rewards[second]
    assert metrics["margin"] == pytest.approx(gaps.sum().item(), abs=1e-9)
    expected = torch.zeros_like(best.table)
    for a, b in zip(first, second, strict=True):
        p = torch.sigmoid(rewards[a] - rewards[b])
        one = torch.tensor([a]), torch.tensor([b])
        lengths = torch.ones(2, 1, dtype=torch.long)
        both = p * losses(*one)[0] + (1 - p) * losses(*reversed(one))[0]
        expected += torch.autograd.grad(both, best.table, retain_graph=True)[0]
    assert expected.abs().max() < 1e-9


# --- against a loop that reads like the definitions ----------------------------------------------


def slow_logprob(policy, prompt, text):
    ids = policy.encode([prompt])[0]
    answer = (policy.encode([text])[0] if text else []) + [policy.eos_id]
    logp = policy.model(torch.tensor([ids + answer])).logits[0].detach().log_softmax(-1)
    return sum(logp[len(ids) - 1 + t, a].item() for t, a in enumerate(answer)), len(answer)


def slow_loss(policy, ref, rows, config):
    """The loss of some of PAIRS, one after another, in plain numbers."""
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    ratios, z = [], 0.0
    for i in rows:
        pair, both = PAIRS[i], []
        for text in pair.texts:
            (own, T), (base, _) = (slow_logprob(p, pair.prompt, text) for p in (policy, ref))
            both.append((own - base) / (T if config.per_token else 1))
        ratios.append(both)
        j = next(j % 8 for j in range(i + 1, i + 8) if PAIRS[j % 8].prompt != pair.prompt)
        (own, _), (base, _) = (
            slow_logprob(p, pair.prompt, PAIRS[j].texts[i % 2]) for p in (policy, ref)
        )
        z += (own - base) / len(rows)
    z, total = max(z, 0.0), 0.0
    for good, bad in ratios:
        if config.loss == "kto":
            up = config.desirable_weight * (1 - sigmoid(config.beta * (good - z)))
            down = config.undesirable_weight * (1 - sigmoid(config.beta * (z - bad)))
            total += (up + down) / 2
        elif config.loss == "ipo":
            total += (good - bad - 1 / (2 * config.beta)) ** 2
        else:
            s, h = config.label_smoothing, config.beta * (good - bad)
            total -= (1 - s) * math.log(sigmoid(h)) + s * math.log(sigmoid(-h))
    return total / len(rows), z


@pytest.mark.parametrize("name", KINDS)
def test_against_a_slow_loop_with_padding_that_is_the_end_token(pad_is_end, name):
    config = replace(CONFIG, **KINDS[name], beta=0.3)
    ref = small_policy(seed=1, dtype=torch.float64)
    data, reference = ready(pad_is_end, config, ref)
    rows = [6, 2, 3, 0, 5]
    _, metrics = gradient_of_step(pad_is_end, data, reference, torch.tensor(rows), config)
    expected, z = slow_loss(pad_is_end, ref, rows, config)
    assert metrics["loss"] == pytest.approx(expected, abs=1e-9)
    if config.loss == "kto":
        assert metrics["kl"] == pytest.approx(z, abs=1e-9) and z > 0.1
    else:
        assert "kl" not in metrics


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("micro_tokens", [60, 30, 1])
def test_micro_batches_give_the_gradient_of_the_batch(pad_is_end, name, micro_tokens):
    config, ref = replace(CONFIG, **KINDS[name]), small_policy(seed=1, dtype=torch.float64)
    data, reference = ready(pad_is_end, config, ref)
    rows = torch.arange(8)
    whole, metrics = gradient_of_step(pad_is_end, data, reference, rows, config)
    cut = replace(config, micro_tokens=micro_tokens)
    parts = len(list(pair_pieces(data, rows, micro_tokens=micro_tokens)))
    assert parts == {60: 3, 30: 6, 1: 8}[micro_tokens]
    found, same = gradient_of_step(pad_is_end, data, reference, rows, cut)
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-9)
    assert same == pytest.approx(metrics, abs=1e-9)
    chopped = reference_logprobs(ref, data, cut)
    torch.testing.assert_close(chopped, reference, rtol=0, atol=1e-9)


def test_a_long_gradient_is_clipped_and_reported_as_it_was(exact_policy):
    data, reference = ready(exact_policy, CONFIG, small_policy(seed=1, dtype=torch.float64))
    rows = torch.arange(8)
    whole, free = gradient_of_step(exact_policy, data, reference, rows, CONFIG)
    held = torch.optim.SGD(exact_policy.model.parameters(), lr=0.0)
    metrics = step(exact_policy, held, data, reference, rows, replace(CONFIG, max_grad_norm=0.01))
    found = torch.cat([p.grad.flatten() for p in exact_policy.model.parameters()])
    assert whole.norm().item() == pytest.approx(free["grad_norm"]) and free["grad_norm"] > 0.02
    assert metrics["grad_norm"] == pytest.approx(free["grad_norm"])
    torch.testing.assert_close(found, whole * 0.01 / whole.norm(), rtol=1e-3, atol=1e-9)


def test_pieces_hold_every_pair_once_within_the_memory(policy):
    data = encode_pairs(policy, PAIRS)
    rows = torch.tensor([7, 1, 3, 0, 5])
    pieces = list(pair_pieces(data, rows, micro_tokens=40))
    assert sorted(torch.cat(pieces).tolist()) == sorted(rows.tolist())
    for piece in pieces:
        P = data.chosen.prompt_lengths[piece].max()
        T = data.lengths[:, piece].max()
        assert len(piece) == 1 or 2 * len(piece) * (P + T) <= 40
    (whole,) = pair_pieces(data, rows, micro_tokens=None)
    assert whole.tolist() == [5, 7, 3, 1, 0]


# --- against trl ---------------------------------------------------------------------------------

TRL = {
    "dpo": ("sigmoid", {}),
    "dpo, per token": ("sigmoid_norm", {}),
    "ipo, per token": ("ipo", {}),
}


class Watched(dict):
    """What trl logs, wherever it logs it."""

    def __missing__(self, key):
        self[key] = defaultdict(list)
        return self[key]


def trl_self(**attributes):
    def same(x):
        return x

    accelerator = SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same)
    defaults = {
        "aux_loss_enabled": False, "accelerator": accelerator,
        "model": SimpleNamespace(training=True), "_metrics": Watched(),
        "_total_train_tokens": 0, "_tp_size": 1,
    }  # fmt: skip
    return SimpleNamespace(**(defaults | attributes))


def trl_outputs(policy, responses):
    """A forward pass as trl has it: log-probabilities of the labels, token by token."""
    logprobs = response_logprobs(policy.model, responses)
    before = torch.zeros(len(responses), responses.prompt_ids.shape[1] - 1, dtype=logprobs.dtype)
    full = torch.cat([before, logprobs], dim=1)
    nothing = torch.zeros_like(full).detach()
    return SimpleNamespace(
        log_probs=full, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool(), aux_loss=None
    )


def trl_batch(responses):
    mask = torch.cat([torch.zeros_like(responses.prompt_mask), responses.response_mask], dim=1)
    return {
        "input_ids": responses.sequence_ids, "completion_mask": mask.long(),
        "attention_mask": responses.sequence_mask.long(),
    }  # fmt: skip


def both_gradients(policy, ours, theirs):
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    found = []
    for loss in (ours, theirs):
        policy.model.zero_grad()
        loss.backward(retain_graph=True)
        found.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRL)
def test_trl_has_the_same_loss_and_gradient(exact_policy, name):
    trl = pytest.importorskip("trl", reason="trl comes with the extra 'bench'")
    kind, more = TRL[name]
    config = replace(CONFIG, **KINDS[name], beta=0.3)
    data, reference = ready(exact_policy, config, small_policy(seed=1, dtype=torch.float64))
    logprobs = pair_logprobs(exact_policy.model, data, torch.arange(8))
    ours, metrics = preference_objective(logprobs, reference, data.lengths, config, denominator=8)
    both = concatenate([data.chosen, data.rejected])
    trainer = trl_self(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[kind],
        loss_weights=[1.0], beta=0.3, use_weighting=False, **more,
    )  # fmt: skip
    inputs = trl_batch(both) | {
        "ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]
    }  # fmt: skip
    theirs = trl.DPOTrainer._compute_loss(
        trainer, lambda **kwargs: trl_outputs(exact_policy, both), inputs, False
    )
    both_gradients(exact_policy, ours, theirs)
    logged = {key: value[0] for key, value in trainer._metrics["train"].items() if value}
    assert metrics["chosen"] == pytest.approx(logged["logps/chosen"])
    assert metrics["rejected"] == pytest.approx(logged["logps/rejected"])
    if not config.per_token:
        assert metrics["accuracy"] == pytest.approx(logged["rewards/accuracies"])
        assert metrics["margin"] == pytest.approx(logged["rewards/margins"])


def test_trl_has_the_same_kto(exact_policy):
    trl = pytest.importorskip("trl", reason="trl comes with the extra 'bench'")
    config = replace(CONFIG, **KINDS["kto"], beta=0.3)
    data, reference = ready(exact_policy, config, small_policy(seed=1, dtype=torch.float64))
    with torch.no_grad():
        other = trl_outputs(exact_policy, data.other).log_probs.sum(dim=1)
    z = max((other - reference[2]).mean().item(), 0.0)
    assert z > 0.1
    logprobs = pair_logprobs(exact_policy.model, data, torch.arange(8))
    ours, _ = preference_objective(
        logprobs, reference[:2], data.lengths, config, kl=z, denominator=8
    )
    both = concatenate([data.chosen, data.rejected])
    trainer = trl_self(
        precompute_ref_logps=True, calculate_KL=True, loss_type="kto", beta=0.3,
        desirable_weight=1.5, undesirable_weight=0.5, _compute_kl_logps=lambda model, batch: other,
    )  # fmt: skip
    inputs = trl_batch(both) | {
        "label": torch.tensor([True] * 8 + [False] * 8), "ref_logps": reference[:2].flatten(),
        "ref_KL_logps": reference[2],
    }  # fmt: skip
    theirs = trl.experimental.kto.KTOTrainer if not hasattr(trl, "KTOTrainer") else trl.KTOTrainer
    loss = theirs._compute_loss(
        trainer, lambda **kwargs: trl_outputs(exact_policy, both), inputs, False
    )
    both_gradients(exact_policy, ours, loss)


# --- pairs ---------------------------------------------------------------------------------------


def test_best_and_worst_of_the_samples_by_hand(policy):
    """Four samples each; rows 4, 10 and 13 are cut: they make no preference."""
    rewards = [0.2, 0.9, 0.5, 0.1, 0, 0.5, 1, 1, 0.3, 0.3, 0.3, 0.3, 1, 0, 0, 0]
    batch = mixed_batch(policy, rewards=torch.tensor(rewards))
    assert best_and_worst(batch).T.tolist() == [[1, 3], [6, 4], [12, 15]]
    twice = best_and_worst(batch, pairs_per_prompt=2).T.tolist()
    assert twice == [[1, 3], [2, 0], [6, 4], [7, 5], [12, 15]]
    texts = batch.responses.texts
    assert preferences_of(batch, pairs_per_prompt=2) == [
        Preference("1+", (texts[1], texts[3])),
        Preference("1+", (texts[2], texts[0])),
        Preference("23=", (texts[6], texts[5])),
        Preference("5*6=", (texts[12], texts[15])),
    ]
    alike = mixed_batch(policy, rewards=torch.full((16,), 0.1))
    assert best_and_worst(alike).shape == (2, 0) and preferences_of(alike) == []


def test_samples_are_drawn_as_asked_and_scored_at_temperature_one(policy):
    judged = []

    def judge(prompts, texts):
        judged.extend(sevens(prompts, texts))
        return judged[-len(texts) :]

    task = Task.from_functions(list(CHARACTERS[:8]), judge, max_new_tokens=16)
    config = replace(CONFIG, batch_size=4, samples_per_prompt=6, temperature=2.0)
    data, reward = sample_pairs(policy, task, config, torch.Generator().manual_seed(0))
    assert len(judged) == 24 and len(data.chosen) > 1
    assert 0 < reward <= sum(judged) / 24 < max(judged)  # cut ones earn nothing
    drawn = response_logprobs(policy.model, data.chosen, temperature=2.0)
    torch.testing.assert_close(drawn, data.chosen.sampler_logprobs, rtol=0, atol=1e-5)
    expected = response_logprobs(policy.model, data.chosen).sum(dim=1)
    found = reference_logprobs(policy, data, config)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_first_step_is_as_long_as_the_learning_rate(policy):
    """Adam's first step is the rate in each weight, up to its ε; weight decay would add to it."""
    before = copy.deepcopy(policy.model.state_dict())
    list(dpo(policy, PAIRS, replace(CONFIG, steps=1, learning_rate=0.03)))
    moves = [(x - before[name]).abs().max() for name, x in policy.model.named_parameters()]
    assert max(moves).item() == pytest.approx(0.03, rel=1e-3)


def test_the_seed_decides_the_order_of_the_pairs(policy):
    first = [next(dpo(copy.deepcopy(policy), PAIRS, replace(CONFIG, seed=s))) for s in (0, 0, 1, 2)]
    chosen = [report["chosen"] for report in first]
    assert chosen[0] == chosen[1] and len(set(chosen)) > 1


def test_two_verdicts_on_one_text_are_no_preference(policy):
    """A judge may change its mind; a text cannot be better than itself."""
    rewards = [0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.0, *[0.0] * 8]
    batch = mixed_batch(policy, rewards=torch.tensor(rewards))
    texts = batch.responses.texts
    texts[3] = texts[1]
    assert best_and_worst(batch).T.tolist() == [[1, 3], [6, 7]]
    assert preferences_of(batch) == [Preference("23=", (texts[6], texts[7]))]


def test_pairs_of_its_own_keep_the_tokens_as_they_were_drawn(policy):
    """Cut responses too, which have no end token; the log-probabilities are the sampler's."""
    task = Task.from_functions(list(CHARACTERS[:8]), sevens, max_new_tokens=16)
    config = replace(CONFIG, batch_size=16, samples_per_prompt=8, loss="kto")
    data, _ = sample_pairs(policy, task, config, torch.Generator().manual_seed(0))
    assert len(data.chosen) > 1 and data.rejected.truncated.any()
    for responses in data[:2]:
        cut = responses.truncated
        assert (responses.response_ids[cut] != policy.eos_id).all()
        found = response_logprobs(policy.model, responses)
        torch.testing.assert_close(found, responses.sampler_logprobs, rtol=0, atol=1e-5)
    better, worse = sevens(None, data.chosen.texts), sevens(None, data.rejected.texts)
    assert all(a >= b for a, b in zip(better, worse, strict=True))
    # Another prompt's response to each, although some prompts come more than once.
    prompts = [
        tuple(row[mask].tolist())
        for row, mask in zip(data.chosen.prompt_ids, data.chosen.prompt_mask, strict=True)
    ]
    n = len(prompts)
    assert len(set(prompts)) < n
    for i, text in enumerate(data.other.texts):
        j = next(j % n for j in range(i + 1, i + n) if prompts[j % n] != prompts[i])
        assert text == data[i % 2].texts[j]


def test_the_other_response_answers_another_prompt(policy):
    data = encode_pairs(policy, PAIRS, with_other=True)
    texts = ["5.", "123456", "77777", "2", "12345678", "7.", "4", "34"]
    # 0 takes pair 1's chosen, 1 pair 2's rejected, ..., 7 pair 0's rejected
    prompts = [pair.prompt for pair in PAIRS]
    expected = responses_from_texts(policy, prompts, texts)
    assert data.other.texts == texts
    for name in ("prompt_ids", "prompt_mask", "response_mask"):
        assert torch.equal(getattr(data.other, name), getattr(expected, name)), name
    assert (data.other.response_ids == expected.response_ids)[expected.response_mask].all()
    alike = [Preference("1", ("2", "3")), Preference("1", ("4", "5"))]
    assert encode_pairs(policy, alike, with_other=True).other.texts == ["2", "5"]
    assert encode_pairs(policy, alike).other is None


def test_another_prompts_response_is_cut_where_it_does_not_fit(policy):
    """Prompts of 1 and 60 tokens in a context of 64, answers of 50 and 3 with their end."""
    pairs = [Preference("1", ("2" * 49, "3")), Preference("4" * 60, ("55", "6"))]
    data = encode_pairs(policy, pairs, with_other=True)
    assert data.other.lengths.tolist() == [3, 2]  # 55∎ as it is; "3"∎ fits too
    pairs = [Preference("1", ("2", "3" * 49)), Preference("4" * 60, ("55", "6"))]
    assert encode_pairs(policy, pairs, with_other=True).other.lengths.tolist() == [3, 4]


MESSAGES = [{"role": "user", "content": "hi"}]


def said(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": MESSAGES, "chosen": [said("1")], "rejected": [said("2")]},
        {"chosen": [*MESSAGES, said("1")], "rejected": [*MESSAGES, said("2")]},
        {"prompt": "hi", "chosen": [*MESSAGES, said("1")], "rejected": [*MESSAGES, said("2")]},
        {"prompt": "hi", "chosen": [said("1")], "rejected": [said("2")]},
    ],
)
def test_pairs_as_data_sets_of_the_hub_have_them(policy, record):
    expected = Preference("<|user|>hi<|assistant|>", ("1", "2"))
    assert preference_from_record(record, policy) == expected
    with pytest.raises(ValueError, match="these are messages: pass policy="):
        preference_from_record(record)
    with pytest.raises(ValueError, match="the field 'rejected' is missing or empty"):
        preference_from_record(record | {"rejected": []}, policy)


# --- the loop ------------------------------------------------------------------------------------


def preferred_sevens(n):
    generator = torch.Generator().manual_seed(0)
    pairs = []
    while len(pairs) < n:
        rows = torch.randint(10, (2, 5), generator=generator).tolist()
        a, b = ("".join("7" if d > 6 else str(d) for d in row) for row in rows)
        if a.count("7") != b.count("7"):
            best = (a, b) if a.count("7") > b.count("7") else (b, a)
            pairs.append(Preference(str(len(pairs) % 7), best))
    return pairs


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto"])
def test_it_learns_what_was_preferred(policy, loss):
    config = DPOConfig(steps=40, batch_size=32, learning_rate=1e-2, loss=loss)
    reports = list(dpo(policy, preferred_sevens(64), config))
    assert reports[0]["accuracy"] == 0.5 and reports[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert reports[-1]["accuracy"] > 0.8 and reports[-1]["margin"] > 0.3
    assert reports[-1]["loss"] < reports[0]["loss"]
    last = reports[-1]
    assert set(last.metrics) == {*METRICS, *(["kl"] if loss == "kto" else [])}
    assert last["margin"] == pytest.approx(
        config.beta * (last["chosen_change"] - last["rejected_change"]), abs=1e-5
    )
    assert last.samples == 40 * 32


def test_pairs_of_its_own_raise_the_reward(policy):
    task = Task.from_functions(list(CHARACTERS[:8]), sevens, max_new_tokens=16)
    ref = copy.deepcopy(policy)
    config = DPOConfig(steps=50, batch_size=32, learning_rate=3e-3, samples_per_prompt=4)
    reports = list(dpo(policy, task, config, ref=ref))
    rewards = [report["reward"] for report in reports]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    assert reports[-1].samples == sum(int(report["pairs"]) for report in reports)
    pristine = small_policy().model.state_dict()
    assert all(torch.equal(pristine[k], x) for k, x in ref.model.state_dict().items())


def test_the_reference_is_the_policy_at_the_start_unless_given(policy):
    alone, beside = copy.deepcopy(policy), copy.deepcopy(policy)
    plain = list(dpo(alone, PAIRS, CONFIG))
    given = list(dpo(beside, PAIRS, CONFIG, ref=policy))
    assert [r.metrics for r in plain] == [r.metrics for r in given]
    assert plain[-1]["chosen_change"] != 0


@pytest.mark.parametrize("name", ["given pairs", "kto", "its own pairs"])
def test_going_on_is_bit_for_bit_the_same(policy, tmp_path, name):
    config = replace(CONFIG, steps=5, loss="kto" if name == "kto" else "dpo")
    pairs, ref = PAIRS, None
    if name == "its own pairs":
        pairs = Task.from_functions(list(CHARACTERS[:8]), sevens, max_new_tokens=16)
        config, ref = replace(config, batch_size=16), small_policy(seed=9)
    whole = copy.deepcopy(policy)
    reports = list(dpo(whole, pairs, config, ref=ref))
    state = LoopState()
    list(islice(dpo(policy, pairs, config, ref=ref, state=state), 2))
    policy.save(tmp_path / "policy")
    state.save(tmp_path / "state.pt")
    resumed, state = load_policy(tmp_path / "policy"), LoopState.load(tmp_path / "state.pt")
    rest = list(dpo(resumed, pairs, config, ref=ref, state=state))
    assert [r.metrics for r in rest] == [r.metrics for r in reports[2:]]
    for (key, a), b in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b), key


def test_a_state_of_other_pairs_is_refused(policy):
    state = LoopState()
    next(dpo(policy, PAIRS, CONFIG, state=state))
    with pytest.raises(ValueError, match=r"holds references of 8 pairs .* but there are 7"):
        next(dpo(policy, PAIRS[:7], CONFIG, state=state))
    with pytest.raises(ValueError, match=r"of 2 kinds.* there are 8 \(of 3\)"):
        next(dpo(policy, PAIRS, replace(CONFIG, loss="kto"), state=state))


def test_recomputed_blocks_and_micro_batches_change_no_number(policy):
    other = copy.deepcopy(policy)
    plain = list(dpo(policy, PAIRS, CONFIG))
    cut = list(dpo(other, PAIRS, replace(CONFIG, recompute=True, micro_tokens=30)))
    for ours, theirs in zip(plain, cut, strict=True):
        for name in set(ours.metrics) - {"accuracy"}:  # at margins of 1e-7 at first
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3)  # Adam in float32


@pytest.mark.parametrize("name", ["given pairs", "kto", "its own pairs"])
def test_a_run_in_bfloat16_keeps_its_weights_in_float32(policy, name):
    """Policy and reference multiply in bfloat16 wherever they sample or score, and only then."""
    pairs, ref = PAIRS, small_policy(seed=9)
    config = replace(CONFIG, steps=2, loss="kto" if name == "kto" else "dpo")
    if name == "its own pairs":
        pairs = Task.from_functions(list(CHARACTERS[:8]), sevens, max_new_tokens=16)
        config = replace(config, batch_size=16)
    seen, reports, starts = {}, {}, copy.deepcopy(policy.model.state_dict())
    for on in (True, False):
        seen[on] = set()
        policy.model.load_state_dict(starts)
        hooks = [
            p.model.transformer.h[0].mlp.c_fc.register_forward_hook(
                lambda module, inputs, output, on=on: seen[on].add(output.dtype)
            )
            for p in (policy, ref)
        ]
        reports[on] = list(dpo(policy, pairs, replace(config, bf16=on, recompute=on), ref=ref))
        for hook in hooks:
            hook.remove()
        assert all(p.dtype == torch.float32 for p in policy.model.parameters())
        assert all(math.isfinite(x) for report in reports[on] for x in report.metrics.values())
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    if name != "its own pairs":  # the same texts, so the same numbers up to bfloat16's rounding
        for metric in ("chosen", "rejected"):
            exact = reports[False][0][metric]
            assert reports[True][0][metric] == pytest.approx(exact, rel=0.02)
            assert reports[True][0][metric] != exact


def test_recomputing_runs_each_block_forward_again(policy):
    """Two steps, each with one more pass when going backward."""
    passes = {}
    for on in (True, False):
        passes[on] = []  # of the first norm: recomputing stops as soon as it has what it needs
        hook = policy.model.transformer.h[0].ln_1.register_forward_hook(
            lambda *args, on=on: passes[on].append(1)
        )
        list(dpo(policy, PAIRS, replace(CONFIG, steps=2, recompute=on), ref=small_policy(seed=9)))
        hook.remove()
    assert {on: len(count) for on, count in passes.items()} == {True: 4, False: 2}


@pytest.mark.parametrize(
    ("pairs", "changes", "message"),
    [
        ([], {}, "there are no pairs"),
        ([Preference("1", ("2", "3", "4"))], {}, "pair 0 is a ranking of 3"),
        ([Preference("1", ("2" * 70, "3"))], {}, "prompt 0 has 1 tokens and its text 71"),
        (PAIRS, {"loss": "ppo"}, "loss='ppo' is unknown: use one of 'dpo', 'ipo', 'kto'"),
        (PAIRS, {"steps": 0}, "steps=0 must be at least 1"),
        (PAIRS, {"beta": 0.0}, "beta=0.0 must be above 0"),
        (PAIRS, {"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing belongs to loss='dpo'"),
        (PAIRS, {"loss": "kto", "per_token": True}, "per_token belongs to 'dpo' and 'ipo'"),
    ],
)
def test_settings_and_pairs_that_mean_nothing_are_refused(policy, pairs, changes, message):
    with pytest.raises(ValueError, match=message):
        next(dpo(policy, pairs, replace(CONFIG, **changes)))


def test_samples_without_a_better_one_make_no_step_and_are_counted(policy):
    task = Task.from_functions(["1"], lambda p, t: [0.0] * len(t), max_new_tokens=8)
    before = copy.deepcopy(policy.model.state_dict())
    for report in dpo(policy, task, replace(CONFIG, steps=2, loss="kto"), ref=small_policy()):
        assert (report["pairs"], report["reward"], report.samples) == (0.0, 0.0, 0)
        assert math.isnan(report["loss"]) and math.isnan(report["accuracy"])
    assert all(torch.equal(before[k], x) for k, x in policy.model.state_dict().items())


def test_a_task_needs_a_reference_and_two_samples(policy):
    task = Task.from_functions(["1"], lambda p, t: [0.0] * len(t), max_new_tokens=8)
    with pytest.raises(ValueError, match="drawn while the policy moves: pass ref="):
        next(dpo(policy, task, CONFIG))
    with pytest.raises(ValueError, match="samples_per_prompt=1: a pair needs at least 2"):
        next(dpo(policy, task, replace(CONFIG, samples_per_prompt=1), ref=policy))
    table = Policy(TabularLM.fixed_length(torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="the reference chooses among 3 tokens"):
        next(dpo(policy, PAIRS, CONFIG, ref=table))
