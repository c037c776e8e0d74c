"""GRPO and its kin: by hand, exactly by the auditor, against slow loops, against trl; the loop."""

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

from rlbook.audit import audit, default_model, default_rewards, nearby
from rlbook.functional.kl import kl_k1
from rlbook.functional.masked import aggregate, unit_count
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.lm.groups import Groups
from rlbook.lm.heads import ScalarModel
from rlbook.lm.logprobs import response_logprobs, response_logprobs_and_entropy
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.task import Task
from rlbook.loop import LoopState
from rlbook.posttrain.experience import gather_experience, join
from rlbook.posttrain.grpo import (
    ADVANTAGES,
    VARIANTS,
    Fixed,
    GRPOConfig,
    draw,
    grpo,
    grpo_loss,
    objective,
    prepare,
    step,
)
from rlbook.posttrain.reward_model import LearnedReward

LIMIT = 8
CONFIG = GRPOConfig(
    updates=3, train_batch_size=4, rollouts_per_prompt=4, mini_batch_size=4, learning_rate=1e-3
)
NAMES = list(VARIANTS)


def sevens(prompts, texts):
    """Something that a random model sometimes writes: the share of 7s among its characters."""
    return [text.count("7") / max(len(text), 1) for text in texts]


def one_seven(prompts, texts):
    return [float("7" in text) for text in texts]


@pytest.fixture
def task() -> Task:
    return Task.from_functions(list(CHARACTERS[:8]), sevens, max_new_tokens=LIMIT)


@pytest.fixture
def pad_is_end(exact_policy) -> Policy:
    """As GPT-2: what fills rows up is the token that ends them."""
    exact_policy.tokenizer.pad_token = exact_policy.tokenizer.eos_token
    assert exact_policy.pad_id == exact_policy.eos_id
    return exact_policy


def batch_of(policy, task, seed=3, N=4, K=4):
    return gather_experience(
        policy,
        task,
        prompts=N,
        rollouts_per_prompt=K,
        temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )


def gradient_of(model, loss):
    model.zero_grad()
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return found


def of_variant(name, **changes):
    return replace(GRPOConfig(**VARIANTS[name]), **changes)


def priced(name, beta=0.3):
    """The variant with a KL price, where it has a place for one."""
    return of_variant(name, beta=beta if VARIANTS[name]["kl_in"] else 0.0)


# --- the objective, by hand ----------------------------------------------------------------------

# Two responses, of 2 tokens and of 1, rewards 1 and 0; limit 4. At ratio 1 the slope of a token is
# -A times its weight; A = ±1/√2 with the sample std, ±½ with the mean alone, ±1 leave-one-out.
HALF = math.sqrt(0.5)
SLOPES = {
    "GRPO": [[-HALF / 4, -HALF / 4], [HALF / 2, 0.0]],  # per token of a response, per response
    "Dr. GRPO": [[-0.5 / 8, -0.5 / 8], [0.5 / 8, 0.0]],  # 2 responses of up to 4 tokens
    "DAPO": [[-HALF / 3, -HALF / 3], [HALF / 3, 0.0]],  # 3 tokens
    "RLOO": [[-1 / 2, -1 / 2], [1 / 2, 0.0]],  # a response is one action
    "GSPO": [[-HALF / 4, -HALF / 4], [HALF / 2, 0.0]],
    "CISPO": [[-HALF / 3, -HALF / 3], [HALF / 3, 0.0]],
}
VALUES = {  # of the loss: A cancels over responses, or over 2 tokens against 1; cispo: -A log π
    "GRPO": 0.0,
    "Dr. GRPO": -0.5 / 8,
    "DAPO": -HALF / 3,
    "RLOO": 0.0,
    "GSPO": 0.0,
    "CISPO": -HALF * (-1.0 - 2.0 + 3.0) / 3,
}


@pytest.mark.parametrize("name", NAMES)
def test_two_responses_by_hand(name):
    config = of_variant(name)
    mask = torch.tensor([[True, True], [True, False]])
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]], dtype=torch.float64).requires_grad_()
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    advantages = ADVANTAGES[config.advantage](rewards).flatten()
    fixed = Fixed(advantages, mask, logprobs.detach(), None)
    units = unit_count(mask, config.aggregation)
    loss, ratio, clipped = objective(logprobs, mask, fixed, config, units=units, limit=4)
    assert loss.item() == pytest.approx(VALUES[name], abs=2e-4)  # GRPO's ε of 1e-4 beside 0.7
    slopes = torch.autograd.grad(loss, logprobs)[0]
    expected = torch.tensor(SLOPES[name], dtype=torch.float64)
    torch.testing.assert_close(slopes, expected, rtol=0, atol=2e-4)
    assert (ratio == 1).all() and not clipped.any()


# A ratio of 2 on a token with A = +1, and of 2 with A = -1; ε = 0.2.
CLIPS = {
    "PPO's clip": ({"clip": 0.2}, [0.0, 2.0]),
    "two-sided": ({"clip": 0.2, "dual_clip": 1.5}, [0.0, 0.0]),
    "one-sided weight": ({"loss": "cispo", "clip": None, "clip_high": 0.5}, [-1.5, 1.5]),
    "two-sided weight": ({"loss": "cispo", "clip": 0.2, "clip_high": 0.5}, [-1.5, 1.5]),
}


@pytest.mark.parametrize("name", CLIPS)
def test_what_the_clips_do_to_a_sampler_that_lags_behind(name):
    changes, slopes = CLIPS[name]
    config = replace(GRPOConfig(), **changes, aggregation="token-mean")
    old = torch.full((2, 1), -2.0, dtype=torch.float64)
    mask = torch.ones(2, 1, dtype=torch.bool)
    fixed = Fixed(torch.tensor([1.0, -1.0], dtype=torch.float64), mask, old, None)

    def measured(ratio):
        logprobs = (old + math.log(ratio)).requires_grad_()
        loss, _, clipped = objective(logprobs, mask, fixed, config, units=1, limit=1)
        return torch.autograd.grad(loss, logprobs)[0].flatten().tolist(), clipped.sum().item()

    assert measured(2.0) == (pytest.approx(slopes), {"PPO's clip": 1}.get(name, 2))
    low, active = measured(0.1)  # far below: only the lower sides act
    expected = {"one-sided weight": [-0.1, 0.1], "two-sided weight": [-0.8, 0.8]}
    assert low == pytest.approx(expected.get(name, [-0.1, 0.0]))
    assert active == {"one-sided weight": 0, "two-sided weight": 2}.get(name, 1)


# --- exactly -------------------------------------------------------------------------------------


def as_audited(config, limit=2):
    """The method as the auditor asks for it: a loss of one group."""

    def loss(logprobs, old, ref, rewards, mask):
        if config.beta and config.kl_in == "reward":
            price = torch.where(mask, kl_k1(old, ref), 0.0).sum(dim=1)
            rewards = rewards - config.beta * price
        fixed = Fixed(ADVANTAGES[config.advantage](rewards[None])[0], mask, old, ref)
        units = unit_count(mask, config.aggregation)
        return objective(logprobs, mask, fixed, config, units=units, limit=limit)[0]

    return loss


BY_STD = "J's gradient with every group weighted by 1 / its sample standard deviation"
BY_LENGTH = f"{BY_STD}, and every response divided by its own length (GRPO)"
VERDICTS = {  # for K = 2; "nearly" is ε = 1e-4 beside a standard deviation
    "GRPO": ("nearly", BY_LENGTH),
    "Dr. GRPO": ("it follows 0.25 times", "the gradient of the expected reward J"),  # ½ over 2
    "RLOO": ("it follows", "the gradient of the expected reward J"),
    "DAPO": ("nearly", f"{BY_STD}, and every group divided by its number of tokens"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_what_each_method_follows_exactly(name):
    verdict = audit(as_audited(of_variant(name)), group=2).verdict
    begin, words = VERDICTS[name]
    assert verdict.startswith(begin) and words in verdict


@pytest.mark.parametrize(("name", "same"), [("GSPO", "GRPO"), ("CISPO", "DAPO")])
def test_at_ratio_one_two_pairs_follow_one_gradient(name, same):
    """They part where the sampler is another: π_old is not π."""
    model = default_model()
    rewards = default_rewards(model)

    def expected(name, old):
        groups = Groups(model, model, old, rewards, 2)
        return groups.expected_gradient(as_audited(of_variant(name)))[0]

    torch.testing.assert_close(expected(name, model), expected(same, model), rtol=0, atol=1e-12)
    assert (expected(name, nearby(model)) - expected(same, nearby(model))).abs().max() > 1e-3


@pytest.mark.parametrize("K", [2, 3])
def test_leave_one_out_with_its_kl_follows_the_whole_objective(K):
    """RLOO with the price in the reward: E[R] less β KL(π‖ref) of the sequence, to nine digits."""
    found = audit(as_audited(of_variant("RLOO", beta=0.1)), group=K)
    target = found.gradients["J"] - 0.1 * found.gradients["KL(π‖ref)"]
    torch.testing.assert_close(-found.expected, target, rtol=0, atol=1e-9)


def test_the_kl_in_the_loss_is_a_partial_gradient():
    config = replace(of_variant("Dr. GRPO", kl_in="loss"), beta=0.1)
    verdict = audit(as_audited(config, limit=1), group=2).verdict
    assert "holds down 0.1 times per-token KL(ref‖π) at fixed prefixes: a partial" in verdict


# --- reductions ----------------------------------------------------------------------------------


def loss_of(policy, batch, config, ref=None):
    """The loss of a whole train batch, on its own policy."""
    fixed, _ = prepare(policy, ref, batch, config, LIMIT)
    units = unit_count(fixed.learnt, config.aggregation)
    tokens = int(batch.responses.response_mask.sum())
    return grpo_loss(
        policy.model, batch.responses, fixed, config, units=units, tokens=tokens, limit=LIMIT
    )


def test_leave_one_out_is_dr_grpo_but_for_a_factor(exact_policy):
    batch = mixed_batch(exact_policy)
    rloo, dr = (
        gradient_of(exact_policy.model, loss_of(exact_policy, batch, of_variant(name))[0])
        for name in ("RLOO", "Dr. GRPO")
    )
    torch.testing.assert_close(rloo, dr * LIMIT * 4 / 3, rtol=0, atol=1e-9)


def test_one_step_per_batch_is_reinforce_with_a_baseline(exact_policy):
    """epochs = 1, one mini-batch: whatever the clip, -A ∇log π, summed per response."""
    batch = mixed_batch(exact_policy)
    config = of_variant("RLOO", train_batch_size=4, mini_batch_size=4, clip=0.01, clip_high=0.01)
    found = gradient_of(exact_policy.model, loss_of(exact_policy, batch, config)[0])
    mask, rewards = batch.responses.response_mask, batch.grouped_rewards
    baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / 3  # the mean of the others
    A = (rewards - baseline).flatten()[:, None].expand(mask.shape)
    losses = reinforce_loss(response_logprobs(exact_policy.model, batch.responses), A)
    plain = aggregate(losses, mask, "fixed-length", length=1)
    torch.testing.assert_close(found, gradient_of(exact_policy.model, plain), rtol=0, atol=1e-9)


# --- against a loop that reads like the definitions ----------------------------------------------


def slow_loss(policy, old_policy, ref, batch, config):
    """Loss and metrics, response by response and token by token, in plain numbers."""
    K, responses = batch.K, batch.responses
    rows = []
    for i in range(len(responses)):
        prompt = responses.prompt_ids[i][responses.prompt_mask[i]].tolist()
        answer = responses.response_ids[i].tolist()
        if policy.eos_id in answer:
            answer = answer[: answer.index(policy.eos_id) + 1]
        scores = []
        for who in (policy, old_policy, ref):
            logits = who.model(torch.tensor([prompt + answer])).logits[0].detach()
            logp = logits.log_softmax(-1)
            scores.append([logp[len(prompt) - 1 + t, a].item() for t, a in enumerate(answer)])
        rows.append(scores)
    rewards = batch.rewards.tolist()
    if config.kl_in == "reward":
        for i, (_, old, base) in enumerate(rows):
            rewards[i] -= config.beta * sum(o - b for o, b in zip(old, base, strict=True))
    if config.overlong == "penalty":
        for i, (new, _, _) in enumerate(rows):
            rewards[i] += {LIMIT: -1.0}.get(len(new), 0.0)  # a fifth of 8 is one token
    sums, tokens, clipped, ratios, kl_old = [], 0, 0, 0.0, 0.0
    for i, (new, old, base) in enumerate(rows):
        group = rewards[i // K * K : i // K * K + K]
        mean = sum(group) / K
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (K - 1))
        A = {
            "grpo": (rewards[i] - mean) / (std + 1e-4),
            "dr_grpo": rewards[i] - mean,
            "rloo": rewards[i] - (sum(group) - rewards[i]) / (K - 1),
        }[config.advantage]
        T, per_token = len(new), []
        for t in range(T):
            ratio = {
                "token": math.exp(new[t] - old[t]),
                "response": math.exp(sum(new) - sum(old)),
                "geometric-mean": math.exp((sum(new) - sum(old)) / T),
            }[config.ratio]
            ratios += ratio
            kl_old += math.exp(new[t] - old[t]) - 1 - (new[t] - old[t])
            if config.loss == "cispo":
                loss = -min(ratio, 1 + config.clip_high) * A * new[t]
                clipped += ratio > 1 + config.clip_high
            else:
                cut = min(max(ratio, 1 - config.clip), 1 + config.clip_high)
                loss = -min(ratio * A, cut * A)
                clipped += -loss != ratio * A
            if config.kl_in == "loss":
                d = base[t] - new[t]
                loss += config.beta * (math.exp(d) - 1 - d)
            per_token.append(loss)
        tokens += T
        sums.append((sum(per_token), T))
    total = {
        "sequence-mean": sum(s / T for s, T in sums) / len(sums),
        "token-mean": sum(s for s, _ in sums) / tokens,
        "fixed-length": sum(s for s, _ in sums) / (len(sums) * LIMIT),
    }[config.aggregation]
    metrics = {"clip_fraction": clipped, "ratio": ratios, "kl_old": kl_old}
    return total, {name: value / tokens for name, value in metrics.items()}


def moved(policy, size, seed=8):
    """A copy with other weights, so that ratios leave 1."""
    other = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.model.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return other


@pytest.mark.parametrize("name", NAMES)
def test_against_a_slow_loop_on_responses_of_mixed_length(pad_is_end, name):
    config = replace(priced(name), epochs=2)
    learner, ref = moved(pad_is_end, 0.03), small_policy(seed=9, dtype=torch.float64)
    batch = mixed_batch(pad_is_end)
    fixed, _ = prepare(pad_is_end, ref, batch, config, LIMIT)
    units = unit_count(fixed.learnt, config.aggregation)
    tokens = int(batch.responses.response_mask.sum())
    loss, metrics = grpo_loss(
        learner.model, batch.responses, fixed, config, units=units, tokens=tokens, limit=LIMIT
    )
    expected, logged = slow_loss(learner, pad_is_end, ref, batch, config)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert {name: metrics[name] for name in logged} == pytest.approx(logged, abs=1e-9)
    assert (logged["clip_fraction"] > 0) == (name != "CISPO")  # a weight of 5 is out of reach here


# --- against trl ---------------------------------------------------------------------------------

TRL = {
    "GRPO": ("grpo", "token", None),
    "Dr. GRPO": ("dr_grpo", "token", None),
    "DAPO": ("dapo", "token", None),
    "GSPO": ("grpo", "sequence", None),
    "CISPO": ("cispo", "token", None),
    "GRPO, two-sided": ("grpo", "token", 1.5),
}


def on_tensors(seed=0):
    """Log-probabilities of six responses of mixed length, their masks and advantages."""
    generator = torch.Generator().manual_seed(seed)
    new, noise, far = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    advantages = torch.tensor([1.2, -0.3, -0.9, 0.8, 0.1, -0.9], dtype=torch.float64)
    new = new - 2
    return (
        new.requires_grad_(),
        (new + 0.4 * noise).detach(),
        (new + far).detach(),
        mask,
        advantages,
    )


def trl_self(**attributes):
    """What trl's ``_compute_loss`` reads of its trainer."""
    defaults = {
        "aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None,
        "use_vllm": False, "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "model": SimpleNamespace(training=True), "max_completion_length": LIMIT,
        "accelerator": SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x,
            gather_for_metrics=lambda x: x,
        ),
    }  # fmt: skip
    return SimpleNamespace(**(defaults | attributes))


def trl_inputs(old, ref, mask, advantages):
    nothing = torch.zeros(6, 1, dtype=torch.long)
    return {
        "prompt_ids": nothing, "prompt_mask": nothing + 1, "completion_ids": mask.long(),
        "completion_mask": mask.long(), "advantages": advantages, "old_per_token_logps": old,
        "ref_per_token_logps": ref, "num_items_in_batch": mask.sum(),
        "old_logps": torch.where(mask, old, 0.0).sum(dim=1),
    }  # fmt: skip


def same_loss_and_slopes(ours, theirs, new):
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    slopes = [torch.autograd.grad(x, new)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-6)
    assert slopes[0].abs().max() > 1e-2


@pytest.mark.parametrize("name", TRL)
def test_trl_has_the_same_loss_and_gradient(name):
    trl = pytest.importorskip("trl", reason="trl comes with the extra 'bench'")
    kind, level, delta = TRL[name]
    config = of_variant(name.partition(",")[0], dual_clip=delta)
    if config.kl_in == "loss":
        config = replace(config, beta=0.1)
    new, old, ref, mask, advantages = on_tensors()
    units = unit_count(mask, config.aggregation)
    fixed = Fixed(advantages, mask, old, ref)
    ours, _, _ = objective(new, mask, fixed, config, units=units, limit=LIMIT)
    bound = 1 + config.clip_high if kind == "cispo" else config.clip_high  # cispo's is a ratio
    trainer = trl_self(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros(6, 5), None),
        importance_sampling_level=level, loss_type=kind, beta=config.beta, epsilon_low=config.clip,
        epsilon_high=bound,
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    inputs = trl_inputs(old, ref, mask, advantages)
    theirs = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    same_loss_and_slopes(ours, theirs, new)


def test_trl_has_the_same_leave_one_out():
    trl = pytest.importorskip("trl", reason="trl comes with the extra 'bench'")
    config = of_variant("RLOO")
    new, old, _, mask, advantages = on_tensors()
    fixed = Fixed(advantages, mask, old, None)
    ours, _, _ = objective(new, mask, fixed, config, units=6, limit=LIMIT)
    trainer = trl_self(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros(6, 5), None),
        epsilon_low=config.clip, epsilon_high=config.clip_high,
    )  # fmt: skip
    inputs = trl_inputs(old, None, mask, advantages)
    same_loss_and_slopes(ours, trl.RLOOTrainer._compute_loss(trainer, None, inputs), new)


# --- one optimiser step --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_micro_batches_give_the_gradient_of_the_mini_batch(pad_is_end, name, parts):
    config = replace(priced(name), epochs=2)
    learner, ref = moved(pad_is_end, 0.03), small_policy(seed=9, dtype=torch.float64)
    batch = mixed_batch(pad_is_end)
    fixed, _ = prepare(pad_is_end, ref, batch, config, LIMIT)
    counts = {
        "units": unit_count(fixed.learnt, config.aggregation),
        "tokens": int(batch.responses.response_mask.sum()),
    }

    def gradient(parts):
        losses, shares = [], []
        for rows in torch.arange(16).tensor_split(parts):
            part = batch.responses.select(rows)
            own = fixed.select(rows, part.response_ids.shape[1])
            loss, metrics = grpo_loss(learner.model, part, own, config, **counts, limit=LIMIT)
            losses.append(loss)
            shares.append(metrics)
        totals = {name: sum(row[name] for row in shares) for name in shares[0]}
        return gradient_of(learner.model, sum(losses)), totals

    (whole, metrics), (cut, summed) = gradient(1), gradient(parts)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-9)
    assert summed == pytest.approx(metrics, abs=1e-9)


def one_step(policy, batch, config, ref=None):
    """The gradient that a step of the loop takes, and its metrics."""
    fixed, _ = prepare(policy, ref, batch, config, LIMIT)
    held = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    metrics = step(policy, held, batch, fixed, torch.arange(len(batch.rewards)), config, LIMIT)
    found = [p.grad.flatten() for p in policy.model.parameters()]
    return torch.cat(found), metrics


@pytest.mark.parametrize("micro_tokens", [None, 24])
@pytest.mark.parametrize("name", NAMES)
def test_silent_responses_are_left_out_of_the_step_and_counted_in_it(
    pad_is_end, name, micro_tokens
):
    """The gradient with every response differentiated is that of the step, which skips some."""
    config = of_variant(
        name, overlong="keep", max_grad_norm=None, micro_tokens=micro_tokens, train_batch_size=4
    )
    batch = mixed_batch(pad_is_end, rewards=torch.tensor([1.0] * 4 + [0.0, 1.0] * 3 + [0.3] * 6))
    found, metrics = one_step(pad_is_end, batch, config)
    loss, all_of_it = loss_of(pad_is_end, batch, config)
    torch.testing.assert_close(found, gradient_of(pad_is_end.model, loss), rtol=0, atol=1e-9)
    assert {name: metrics[name] for name in all_of_it} == pytest.approx(all_of_it, abs=1e-9)


@pytest.mark.parametrize("overlong", ["keep", "mask"])
@pytest.mark.parametrize("aggregation", ["sequence-mean", "token-mean", "fixed-length"])
def test_a_mini_batch_is_divided_by_its_own_size(pad_is_end, aggregation, overlong):
    """Two prompts of four: -A log π of their tokens, with the weights written out."""
    ways = {"mini_batch_size": 2, "max_grad_norm": None, "micro_tokens": 40}
    config = replace(CONFIG, aggregation=aggregation, overlong=overlong, **ways)
    batch, rows = mixed_batch(pad_is_end), torch.tensor([8, 9, 10, 11, 4, 5, 6, 7])
    fixed, _ = prepare(pad_is_end, None, batch, config, LIMIT)
    held = torch.optim.SGD(pad_is_end.model.parameters(), lr=0.0)
    metrics = step(pad_is_end, held, batch, fixed, rows, config, LIMIT)
    found = torch.cat([p.grad.flatten() for p in pad_is_end.model.parameters()])
    part = batch.responses.select(rows)
    learnt = part.response_mask & ~(part.truncated[:, None] & (overlong == "mask"))
    assert learnt.shape[1] == LIMIT and part.truncated.sum() == 2
    weights = {
        "sequence-mean": learnt / learnt.sum(dim=1, keepdim=True).clamp(min=1) / 8,
        "token-mean": learnt / learnt.sum(),
        "fixed-length": learnt / (8 * LIMIT),
    }[aggregation]
    logprobs, entropy = response_logprobs_and_entropy(pad_is_end.model, part)
    plain = -(weights * fixed.advantages[rows, None] * logprobs).sum()
    torch.testing.assert_close(found, gradient_of(pad_is_end.model, plain), rtol=0, atol=1e-7)
    mean = entropy[part.response_mask].mean().item()  # a mean over this mini-batch's tokens
    assert metrics["entropy"] == pytest.approx(mean, abs=1e-7)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_groups_without_spread_have_no_policy_gradient(policy, name):
    """All rewards 0.1, whose mean over a group is not 0.1 in float32."""
    task = Task.from_functions(list(CHARACTERS), lambda p, t: [0.1] * len(t), max_new_tokens=40)
    config = replace(CONFIG, **VARIANTS[name] | {"overlong": "keep"}, updates=2, max_draws=2)
    before = copy.deepcopy(policy.model.state_dict())
    for report in grpo(policy, task, config):
        assert report["informative"] == 0.0 or report["truncated"] > 0
        assert all(math.isfinite(x) for x in report.metrics.values())
        if report["informative"] == 0.0:
            assert report["grad_norm"] == 0.0
    if report["informative"] == 0.0:
        assert all(torch.equal(before[k], x) for k, x in policy.model.state_dict().items())


def test_a_kl_in_the_loss_still_moves_groups_without_spread(policy):
    task = Task.from_functions(list(CHARACTERS), lambda p, t: [0.0] * len(t), max_new_tokens=8)
    config = replace(CONFIG, beta=0.1)
    report = next(grpo(policy, task, config, ref=small_policy(seed=9)))
    assert report["informative"] == 0.0 and report["grad_norm"] > 0 and report["kl_ref"] != 0


# --- the loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_runs_and_its_first_step_has_ratio_one(policy, task, name):
    """Several mini-batches and epochs: the first has an idle clip, the later ones have moved."""
    config = replace(CONFIG, **VARIANTS[name], updates=1, mini_batch_size=2, epochs=2, max_draws=2)
    config = replace(config, beta=0.1 if config.kl_in else 0.0)
    ref, alone = small_policy(seed=9), copy.deepcopy(policy.model)
    report = next(grpo(policy, task, config, ref=ref))
    first = replace(config, mini_batch_size=4, epochs=1)
    start = next(grpo(Policy(alone, policy.tokenizer), task, first, ref=ref))
    assert start["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert start["clip_fraction"] == 0.0 and start["kl_old"] == pytest.approx(0.0, abs=1e-6)
    assert report["kl_old"] > 1e-6 and report.samples > 0
    assert {"reward", "truncated", "length", "informative", "kl_ref", "kl_old", "ratio",
            "clip_fraction", "entropy", "grad_norm"} == set(report.metrics)  # fmt: skip
    before = small_policy(seed=9).model.state_dict()
    assert all(torch.equal(before[k], x) for k, x in ref.model.state_dict().items())


def test_without_a_pass_for_old_logprobs_the_step_is_the_same(exact_policy):
    """Exactly on-policy the ratio is 1 without being computed from two passes."""
    batch = mixed_batch(exact_policy)
    skipped, _ = prepare(exact_policy, None, batch, CONFIG, LIMIT)
    kept, _ = prepare(exact_policy, None, batch, replace(CONFIG, epochs=2), LIMIT)
    assert skipped.old_logprobs is None and kept.old_logprobs is not None
    counts = {"units": 16, "tokens": int(batch.responses.response_mask.sum()), "limit": LIMIT}
    gradients = [
        gradient_of(
            exact_policy.model,
            grpo_loss(exact_policy.model, batch.responses, fixed, CONFIG, **counts)[0],
        )
        for fixed in (skipped, kept)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_the_second_mini_batch_is_not_the_samplers_any_more(policy):
    """One epoch in two steps: what is logged of the second is to the policy that sampled."""
    task = Task.from_functions(
        list(CHARACTERS), lambda p, t: [len(x) / 30 for x in t], max_new_tokens=30
    )
    config = replace(CONFIG, updates=1, rollouts_per_prompt=8, learning_rate=1e-2)
    whole, halves = (
        next(grpo(copy.deepcopy(policy), task, replace(config, mini_batch_size=size)))
        for size in (4, 2)
    )
    assert whole["reward"] == halves["reward"] and whole["informative"] == 1.0  # all groups move
    assert whole["kl_old"] == 0.0 < 1e-4 < halves["kl_old"]


def test_a_run_in_bfloat16_keeps_its_weights_in_float32(policy, task):
    config = replace(CONFIG, rollouts_per_prompt=8, learning_rate=3e-3, epochs=2, beta=0.01)
    before = copy.deepcopy(policy.model.state_dict())
    dtypes = set()
    policy.model.lm_head.register_forward_hook(lambda *seen: dtypes.add(seen[-1].dtype))
    ref = copy.deepcopy(policy)
    reports = list(grpo(policy, task, replace(config, bf16=True, recompute=True), ref=ref))
    assert dtypes == {torch.bfloat16}  # sampled, scored and trained in one precision
    for name, weights in policy.model.state_dict().items():
        assert weights.dtype == before[name].dtype == torch.float32
        assert weights.isfinite().all() and not torch.equal(weights, before[name])
    assert all(math.isfinite(x) for report in reports for x in report.metrics.values())
    # Scored twice in the same precision, so the first ratios are 1 up to bfloat16's rounding.
    assert reports[0]["ratio"] == pytest.approx(1.0, abs=0.05)


def test_it_learns_what_is_rewarded_from_a_function_or_from_a_model(policy, task):
    config = replace(CONFIG, updates=25, rollouts_per_prompt=8, learning_rate=3e-3)
    start = copy.deepcopy(policy)
    rewards = [report["reward"] for report in grpo(policy, task, config)]
    assert sum(rewards[:3]) / 3 < 0.2 < 0.4 < sum(rewards[-3:]) / 3
    judge = ScalarModel(
        small_policy(seed=4), init="reward", generator=torch.Generator().manual_seed(1)
    )
    learned = LearnedReward(task, judge)
    scores = [report["reward"] for report in grpo(start, learned, config)]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


def test_a_policy_without_a_tokenizer_learns_too():
    """TabularLM, prompts as token ids: the chance of the rewarded response goes up."""
    model = TabularLM.with_eos(torch.Generator().manual_seed(0), prompts=[[0], [1]])
    task = Task.from_functions(
        [[0], [1]], lambda p, t: [float(x == "1 0") for x in t], max_new_tokens=3
    )
    config = replace(CONFIG, updates=40, learning_rate=0.2, rollouts_per_prompt=8)
    rewards = [report["reward"] for report in grpo(Policy(model), task, config)]
    assert sum(rewards[-5:]) / 5 > 0.6 > 0.4 > sum(rewards[:3]) / 3


def test_dynamic_sampling_fills_the_batch_with_informative_groups(policy):
    task = Task.from_functions(list(CHARACTERS), one_seven, max_new_tokens=LIMIT)
    config = replace(CONFIG, informative_only=True, max_draws=20)
    batch, metrics, tokens = draw(policy, task, config, torch.Generator().manual_seed(0))
    assert batch.grouped_rewards.shape == (4, 4)
    assert (batch.grouped_rewards.std(dim=1) > 0).all()
    prompts = [problem.prompt for problem in batch.problems]
    assert all(len(set(prompts[i : i + 4])) == 1 for i in range(0, 16, 4))
    # what is logged is about all that were drawn, and so are the tokens
    assert metrics["informative"] < 1.0 and tokens > int(batch.responses.response_mask.sum())
    some = replace(config, max_draws=4)
    fewer, metrics, _ = draw(policy, task, some, torch.Generator().manual_seed(0))
    assert 1 <= len(fewer.grouped_rewards) == metrics["informative"] * 16 < 4
    assert fewer.responses.texts == batch.responses.texts[: len(fewer.rewards)]
    assert torch.equal(fewer.rewards, batch.rewards[: len(fewer.rewards)])


def test_joined_batches_keep_their_rows(policy, task):
    a, b = batch_of(policy, task, seed=1, N=2), batch_of(policy, task, seed=2, N=1)
    both = join([a, b])
    assert both.responses.texts == a.responses.texts + b.responses.texts
    assert both.problems == a.problems + b.problems and both.K == 4
    third = both.groups(torch.tensor([2]))
    assert third.responses.texts == b.responses.texts
    assert torch.equal(third.rewards, b.rewards) and third.problems == b.problems


def test_what_becomes_of_cut_responses(exact_policy):
    batch = mixed_batch(exact_policy)
    cut = batch.responses.truncated
    kept, masked, priced = (
        prepare(exact_policy, None, batch, replace(CONFIG, overlong=how), LIMIT)[0]
        for how in ("keep", "mask", "penalty")
    )
    mask = batch.responses.response_mask
    assert torch.equal(kept.learnt, mask) and torch.equal(priced.learnt, mask)
    assert torch.equal(masked.learnt, mask & ~cut[:, None])
    assert (masked.advantages[cut] == 0).all()
    assert torch.equal(masked.advantages[~cut], kept.advantages[~cut])  # the group stays a group
    longest = batch.responses.lengths == LIMIT  # a fifth of 8 tokens is one: only the limit costs
    shaped = (batch.rewards - longest.float()).view(4, 4)
    torch.testing.assert_close(priced.advantages, ADVANTAGES["grpo"](shaped).flatten())
    found, _ = one_step(exact_policy, batch, replace(CONFIG, overlong="mask", max_grad_norm=None))
    only = batch.responses.select(~cut)
    logprobs = response_logprobs(exact_policy.model, only)
    losses = reinforce_loss(logprobs, kept.advantages[~cut, None].expand_as(logprobs).double())
    plain = aggregate(losses, only.response_mask, "sequence-mean", denominator=16)
    torch.testing.assert_close(found, gradient_of(exact_policy.model, plain), rtol=0, atol=1e-9)


def test_a_response_out_of_the_loss_pays_no_kl_either():
    new, old, ref, mask, advantages = on_tensors()
    learnt = mask & (torch.arange(6) != 2)[:, None]
    config = GRPOConfig(beta=0.5)
    fixed = Fixed(advantages, learnt, old, ref)
    loss, _, _ = objective(new, mask, fixed, config, units=6, limit=LIMIT)
    slopes = torch.autograd.grad(loss, new)[0]
    assert (slopes[2] == 0).all() and (slopes[[0, 1, 3, 4, 5]] != 0).any(dim=1).all()


def test_a_sampler_that_is_refreshed_every_third_update(policy, task):
    """It stays behind in between: ratios leave 1 at once, and come back to it."""
    config = replace(CONFIG, updates=5, refresh_every=3, learning_rate=3e-3)
    state = LoopState()
    kept = []
    ratios = []
    for report in grpo(policy, task, config, state=state):
        ratios.append(abs(report["ratio"] - 1.0))
        kept.append(state.extra["sampler.transformer.wte.weight"])
    assert max(ratios[0], ratios[3]) < 1e-5 < 1e-3 < min(ratios[1], ratios[2], ratios[4])
    assert torch.equal(kept[0], kept[2]) and not torch.equal(kept[2], kept[3])


RESUMED = {
    "one step": {},
    "epochs": {"epochs": 2, "mini_batch_size": 2, "beta": 0.05},
    "behind": {"refresh_every": 3, "loss": "cispo", "clip": None, "clip_high": 1.0},
}


@pytest.mark.parametrize("name", RESUMED)
def test_going_on_is_bit_for_bit_the_same(policy, task, tmp_path, name):
    config = replace(CONFIG, updates=5, **RESUMED[name])
    ref, whole = small_policy(seed=9), copy.deepcopy(policy)
    reports = list(grpo(whole, task, config, ref=ref))
    state = LoopState()
    list(islice(grpo(policy, task, config, ref=ref, state=state), 2))
    policy.save(tmp_path / "policy")
    state.save(tmp_path / "state.pt")
    resumed, state = load_policy(tmp_path / "policy"), LoopState.load(tmp_path / "state.pt")
    rest = list(grpo(resumed, task, config, ref=ref, state=state))
    assert [r.metrics for r in rest] == [r.metrics for r in reports[2:]]
    assert [r.samples for r in rest] == [r.samples for r in reports[2:]]
    for (key, a), b in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b), key


def test_recomputed_blocks_and_micro_batches_change_no_number(policy, task):
    plain, other = copy.deepcopy(policy), copy.deepcopy(policy)
    config = replace(CONFIG, max_grad_norm=0.1)
    a = list(grpo(plain, task, config))
    b = list(grpo(other, task, replace(config, recompute=True, micro_tokens=30)))
    for ours, theirs in zip(a, b, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-4)  # Adam's steps in float32


def test_temperature_is_that_of_the_sampling(policy, task):
    """At temperature 2 the ratio of the first step is 1 only if scoring uses 2 as well."""
    config = replace(CONFIG, temperature=2.0, epochs=2, updates=1, learning_rate=1e-9)
    report = next(grpo(policy, task, config))
    assert report["ratio"] == pytest.approx(1.0, abs=1e-5)
    batch = batch_of(policy, task)
    fixed, _ = prepare(policy, None, batch, config, LIMIT)
    expected = response_logprobs(policy.model, batch.responses, temperature=2.0)
    torch.testing.assert_close(fixed.old_logprobs, expected)


def test_a_response_is_priced_with_all_its_tokens(exact_policy):
    """KL in the reward: R - β Σ k1 before the group is compared; kl_ref is the mean of Σ k1."""
    ref, batch = small_policy(seed=9, dtype=torch.float64), mixed_batch(exact_policy)
    fixed, kl_ref = prepare(exact_policy, ref, batch, priced("RLOO"), LIMIT)
    with torch.no_grad():
        own, other = (
            response_logprobs(m, batch.responses) for m in (exact_policy.model, ref.model)
        )
    kl = (own - other).sum(dim=1)
    assert kl_ref == pytest.approx(kl.mean().item(), abs=1e-9)
    rewards = (batch.rewards.double() - 0.3 * kl).view(4, 4)
    expected = rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / 3
    torch.testing.assert_close(fixed.advantages, expected.flatten(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts_per_prompt": 1}, "rollouts_per_prompt=1: responses are compared with others"),
        ({"advantage": "ppo"}, "advantage='ppo' is unknown: use one of 'grpo', 'dr_grpo'"),
        ({"kl_in": "both"}, "kl_in='both' is unknown"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"refresh_every": 0}, "refresh_every=0 must be at least 1"),
        ({"beta": -0.1}, r"beta=-0\.1 .* must not be negative"),
        ({"beta": 0.1}, "needs a reference"),
        ({"beta": 0.1, "kl_in": None}, "a price needs a place"),
        ({"clip": None}, 'clip=None leaves the lower side open: that is for loss="cispo"'),
        ({"loss": "cispo", "ratio": "response"}, "cispo.* has a ratio per token"),
        ({"loss": "cispo", "clip": None, "clip_high": None}, "needs an upper bound"),
    ],
)
def test_settings_that_mean_nothing_are_refused(policy, task, changes, message):
    with pytest.raises(ValueError, match=message):
        next(grpo(policy, task, replace(CONFIG, **changes)))


def test_references_and_rewards_are_checked(policy, task):
    table = TabularLM.fixed_length(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="the reference chooses among 3 tokens"):
        next(grpo(policy, task, replace(CONFIG, beta=0.1), ref=Policy(table)))
    broken = Task.from_functions(["1", "2"], lambda p, t: [math.nan] * len(t), max_new_tokens=4)
    with pytest.raises(ValueError, match="the reward of sample 0 is nan"):
        next(grpo(policy, broken, CONFIG))


def test_the_table_of_methods_is_complete():
    """Every row says something in every column, and makes a config."""
    columns = {"advantage", "ratio", "aggregation", "loss", "clip", "clip_high", "kl_in"}
    assert NAMES == ["GRPO", "Dr. GRPO", "DAPO", "RLOO", "GSPO", "CISPO"]
    for row in VARIANTS.values():
        assert columns <= set(row)
        GRPOConfig(**row)
