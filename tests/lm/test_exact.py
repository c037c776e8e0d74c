"""Exact quantities of TabularLM: hand sums, plain loops, autograd, and the estimators of Part II.

The estimators' expectations are sums over every response, so "unbiased" is an equality here.
"""

import math
from itertools import product

import pytest
import torch
from naive_texts import (
    SPACES,
    all_texts,
    build,
    naive_responses,
    naive_rows,
    probability,
    random_rewards,
    token_probability,
)

from rlbook.functional.kl import exact_kl, kl_k2, kl_k3, per_token_kl_reward
from rlbook.functional.policy_losses import entropy, reinforce_loss
from rlbook.functional.returns import discounted_returns
from rlbook.lm.batch import Responses
from rlbook.lm.exact import (
    enumerate_responses,
    enumerated_logprobs,
    expected_pass_at_k,
    expected_reward,
    fixed_prefix_kl,
    matching,
    policy_gradient,
    prefix_probabilities,
    prefix_values,
    response_states,
    sequence_entropy,
    sequence_kl,
    sequence_logprobs,
)
from rlbook.lm.tabular_lm import TabularLM

NAMES = list(SPACES)
EXACT = {"rtol": 0.0, "atol": 1e-12}


def close(a, b):
    torch.testing.assert_close(a, b, **EXACT)


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def gradient(value, model):
    return torch.autograd.grad(value, model.table, retain_graph=True)[0]


def differ(a, b):
    """By more than a tenth of their size: eleven orders above the tolerance here."""
    return bool((a - b).norm() > 0.1 * b.norm())


def coin() -> TabularLM:
    """Prompt 0; words 0 and 1, 1 ends; at most 2 tokens. First 0 with ¾, then 0 with ⅓."""
    model = TabularLM([[0]], vocab_size=2, max_new_tokens=2, eos_id=1)
    return model.like(numbers([[0.75, 0.25], [1 / 3, 2 / 3]]).log())


# Its responses in order: 0 0 (cut off): ¾·⅓ = ¼;  0 1: ¾·⅔ = ½;  1: ¼.
COIN = [0.25, 0.5, 0.25]


# --- by hand ---------------------------------------------------------------------------------


def test_responses_of_the_coin():
    responses = enumerate_responses(coin())
    assert responses.response_ids.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert responses.response_mask.tolist() == [[True, True], [True, True], [True, False]]
    assert responses.prompt_ids.tolist() == [[0]] * 3
    assert responses.texts == ["0 0", "0", ""]
    assert responses.truncated.tolist() == [True, False, False]
    assert response_states(coin(), responses).tolist() == [[0, 1], [0, 1], [0, -1]]
    close(sequence_logprobs(coin()).exp(), numbers(COIN))
    close(responses.sampler_logprobs, numbers([[3 / 4, 1 / 3], [3 / 4, 2 / 3], [1 / 4, 1]]).log())
    assert not responses.sampler_logprobs.requires_grad


def test_a_text_that_just_stops_leaves_no_state_behind():
    # Neither an EOS nor the limit: a next token could be chosen, but the mask says that none was.
    responses = Responses(
        prompt_ids=torch.tensor([[0], [0]]),
        prompt_mask=torch.ones(2, 1, dtype=torch.bool),
        response_ids=torch.tensor([[0, 1], [0, 1]]),
        response_mask=torch.tensor([[True, True], [True, False]]),
        sampler_logprobs=torch.zeros(2, 2),
        texts=["0", "0"],
    )
    assert response_states(coin(), responses).tolist() == [[0, 1], [0, -1]]


def test_reward_of_the_coin():
    """R = 4, 1, -2: J = ¼·4 + ½·1 - ¼·2 = 1; after a 0: ⅓·4 + ⅔·1 = 2."""
    model, rewards = coin(), numbers([4.0, 1.0, -2.0])
    close(expected_reward(model, rewards), numbers(1.0))
    V, Q = prefix_values(model, rewards)
    close(V, numbers([1.0, 2.0]))
    close(Q, numbers([[2.0, -2.0], [4.0, 1.0]]))
    close(prefix_probabilities(model), numbers([1.0, 0.75]))
    # d π (Q - V): 1·¾·(2-1), 1·¼·(-2-1);  ¾·⅓·(4-2), ¾·⅔·(1-2)
    close(policy_gradient(model, rewards), numbers([[0.75, -0.75], [0.5, -0.5]]))


def test_pass_at_k_of_the_coin():
    """p = ¼: at least one of 2 in 1 - (¾)² = 7/16."""
    correct = numbers([1.0, 0.0, 0.0])
    close(expected_pass_at_k(coin(), correct, k=2), numbers(7 / 16))
    close(expected_pass_at_k(coin(), correct, k=1), expected_reward(coin(), correct))


def test_kl_and_entropy_of_the_coin():
    """Against the uniform table (¼, ¼, ½); entropies ½ log 2 + 2·¼ log 4 = 1.5 log 2 each."""
    model = coin()
    uniform = model.like(torch.zeros_like(model.table))
    close(sequence_kl(model, uniform), numbers(0.5 * math.log(2) - 0.25 * math.log(2)))
    close(sequence_kl(uniform, model), numbers(-0.25 * math.log(2) + 0.5 * math.log(2)))
    close(sequence_entropy(model), numbers(1.5 * math.log(2)))
    # Per token at the coin's prefixes: KL(¾,¼ ‖ ½,½) + ¾ · KL(⅓,⅔ ‖ ½,½)
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3
    close(fixed_prefix_kl(model, uniform), numbers(first + 0.75 * second))
    # The same choices met where the uniform table meets them: second state half the time.
    found = fixed_prefix_kl(model, uniform, drawn_by=uniform)
    close(found, numbers(first + 0.5 * second))


# --- by plain loops --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_enumeration(name):
    model = build(name)
    responses, texts = enumerate_responses(model), all_texts(model)
    eos = model.config.eos_token_id
    rows = naive_rows(model)
    states = response_states(model, responses)
    assert len(responses) == len(texts)
    for i, (x, y) in enumerate(texts):
        assert responses.prompt_ids[i, responses.prompt_mask[i]].tolist() == list(x)
        assert responses.response_ids[i, responses.response_mask[i]].tolist() == list(y)
        assert responses.texts[i] == " ".join(str(token) for token in y if token != eos)
        assert responses.truncated[i] == (eos is not None and y[-1] != eos)
        assert states[i, : len(y)].tolist() == [rows[x, y[:t]] for t in range(len(y))]
        assert (states[i, len(y) :] == -1).all()


@pytest.mark.parametrize("name", NAMES)
def test_probabilities(name):
    model = build(name)
    p = sequence_logprobs(model).exp()
    close(p, numbers([probability(model, x, y) for x, y in all_texts(model)]))
    close(
        p.reshape(len(model.space.prompts), -1).sum(1),
        numbers(1.0).expand(len(model.space.prompts)),
    )


@pytest.mark.parametrize("name", NAMES)
def test_reward_and_values(name):
    model, rewards, texts = build(name), random_rewards(build(name)), all_texts(build(name))
    N = len(model.space.prompts)
    pairs = list(zip(texts, rewards.tolist(), strict=True))
    J = sum(probability(model, x, y) * r for (x, y), r in pairs) / N
    close(expected_reward(model, rewards), numbers(J))

    V, Q = prefix_values(model, rewards)
    d = prefix_probabilities(model)
    for (prompt, prefix), row in naive_rows(model).items():
        t = len(prefix)
        begins = [(y, r) for (x, y), r in pairs if x == prompt and y[:t] == prefix]
        close(V[row], numbers(sum(probability(model, prompt, y, t) * r for y, r in begins)))
        close(d[row], numbers(sum(probability(model, prompt, y) for y, _ in begins) / N))
        for a in range(model.config.vocab_size):
            after = [(y, r) for y, r in begins if y[t] == a]
            right = sum(probability(model, prompt, y, t + 1) * r for y, r in after)
            close(Q[row, a], numbers(right))
    roots = slice(None, None, len(model.space.prefixes))
    close(V[roots].mean(), numbers(J))


@pytest.mark.parametrize("name", NAMES)
def test_kl_and_entropy(name):
    p, q = build(name, seed=0), build(name, seed=1)
    N = len(p.space.prompts)
    both = [(probability(p, x, y), probability(q, x, y)) for x, y in all_texts(p)]
    close(sequence_kl(p, q), numbers(sum(a * math.log(a / b) for a, b in both) / N))
    close(sequence_entropy(p), numbers(-sum(a * math.log(a) for a, _ in both) / N))

    total = 0.0
    for (prompt, prefix), row in naive_rows(p).items():
        here = prefix_probabilities(q)[row].item()
        for a in range(p.config.vocab_size):
            mine, other = (token_probability(m, prompt, prefix, a) for m in (p, q))
            total += here * mine * math.log(mine / other)
    close(fixed_prefix_kl(p, q, drawn_by=q), numbers(total))


@pytest.mark.parametrize("name", ["eos", "fixed-two-prompts"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_over_all_groups(name, k):
    model = build(name)
    correct = (random_rewards(model) > 0.5).double()
    responses = list(naive_responses(model))
    M, total = len(responses), 0.0
    for n, prompt in enumerate(model.space.prompts):
        p = [probability(model, prompt, y) for y in responses]
        right = correct[n * M : (n + 1) * M].tolist()
        for group in product(range(M), repeat=k):
            if any(right[i] for i in group):
                total += math.prod(p[i] for i in group)
    close(expected_pass_at_k(model, correct, k=k), numbers(total / len(model.space.prompts)))


# --- what must hold between them -------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_visits_add_up_to_the_length(name):
    model = build(name)
    lengths = enumerate_responses(model).lengths.double()
    close(prefix_probabilities(model).sum(), expected_reward(model, lengths))


@pytest.mark.parametrize("name", NAMES)
def test_the_chain_rule_of_kl_and_entropy(name):
    """Sums over states of exact_kl and entropy are those of the whole text."""
    p, q = build(name, seed=0), build(name, seed=1)
    d = prefix_probabilities(p)
    close((d * exact_kl(p.table, q.table)).sum(), sequence_kl(p, q))
    close(fixed_prefix_kl(p, q), sequence_kl(p, q))
    close((d * entropy(p.table)).sum(), sequence_entropy(p))


def test_distance_to_itself_is_zero():
    model = build("eos")
    close(sequence_kl(model, model.like()), numbers(0.0))
    close(fixed_prefix_kl(model, model.like()), numbers(0.0))


def test_a_token_that_is_ruled_out():
    """A logit of -inf: 0 · log 0 = 0 in value and gradient; the other direction is infinite."""
    q = build("eos")
    table = q.table.detach().clone()
    table[1, 0] = -torch.inf
    p = q.like(table)
    for value in (sequence_kl(p, q), sequence_entropy(p), fixed_prefix_kl(p, q)):
        assert value.isfinite()
        assert gradient(value, p).isfinite().all()
    assert sequence_kl(q, p) == torch.inf
    assert gradient(expected_reward(p, random_rewards(p)), p).isfinite().all()


def test_a_state_that_is_never_met_does_not_count():
    """p never begins with 0, so what q rules out after a 0 is no matter."""
    table = build("eos").table.detach().clone()
    p, q = table.clone(), table.clone()
    p[0, 0], q[1, 0] = -torch.inf, -torch.inf
    p, q = build("eos").like(p), build("eos").like(q)
    assert sequence_kl(p, q).isfinite()
    close(fixed_prefix_kl(p, q), sequence_kl(p, q))


def test_float32():
    model = build("eos-two-prompts")
    single = TabularLM(
        model.space.prompts, vocab_size=3, max_new_tokens=3, eos_id=2, dtype=torch.float32
    ).like(model.table.float())
    rewards = random_rewards(model)
    V, Q = prefix_values(single, rewards)
    assert V.dtype == torch.float32
    for a, b in ((V, prefix_values(model, rewards)[0]), (Q, prefix_values(model, rewards)[1])):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


# --- gradients -------------------------------------------------------------------------------

QUANTITIES = {
    "reward": lambda p, q, r: expected_reward(p, r),
    "pass@3": lambda p, q, r: expected_pass_at_k(p, (r > 0).double(), k=3),
    "values": lambda p, q, r: torch.cat([x.flatten() for x in prefix_values(p, r)]),
    "visits": lambda p, q, r: prefix_probabilities(p),
    "kl": lambda p, q, r: sequence_kl(p, q),
    "kl of ref": lambda p, q, r: sequence_kl(q, p),
    "entropy": lambda p, q, r: sequence_entropy(p),
    "kl at fixed prefixes": lambda p, q, r: fixed_prefix_kl(p, q, drawn_by=q),
}


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
@pytest.mark.parametrize("name", ["fixed-two-prompts", "eos"])
def test_differences_agree_with_autograd(name, quantity):
    model, ref = build(name, seed=0), build(name, seed=1)
    rewards = random_rewards(model)

    def of(table):
        other = model.like()
        del other.table
        other.table = table  # a plain tensor in the parameter's place, so that it has a history
        return quantity(other, ref, rewards)

    assert torch.autograd.gradcheck(of, model.table)


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_gradient_theorem(name):
    model, rewards = build(name), random_rewards(build(name))
    exact = gradient(expected_reward(model, rewards), model)
    close(policy_gradient(model, rewards), exact)
    # Σ_y π(y) R(y) ∇ log π(y), the expectation of REINFORCE with the whole reward
    weights = sequence_logprobs(model).exp().detach() / len(model.space.prompts)
    close(gradient((weights * rewards * sequence_logprobs(model)).sum(), model), exact)


def expected_loss_gradient(model, losses):
    """E[ Σ_t ∇loss_t ] for losses [B, T]: every response with its probability."""
    weights = sequence_logprobs(model).exp().detach() / len(model.space.prompts)
    mask = enumerate_responses(model).response_mask
    return gradient((weights[:, None] * torch.where(mask, losses, 0.0)).sum(), model)


def returns_to_go(model, token_rewards):
    lengths = enumerate_responses(model).lengths
    terminated = torch.arange(token_rewards.shape[1]) == lengths[:, None] - 1
    return discounted_returns(token_rewards, gamma=1.0, terminated=terminated)


def at_the_end(model, rewards):
    logprobs = enumerated_logprobs(model).detach()
    mask = enumerate_responses(model).response_mask
    return per_token_kl_reward(rewards, logprobs, logprobs, mask, beta=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_reinforce_with_reward_to_go_and_a_baseline(name):
    model, rewards = build(name), random_rewards(build(name))
    exact = gradient(expected_reward(model, rewards), model)
    returns = returns_to_go(model, at_the_end(model, rewards))
    states = response_states(model, enumerate_responses(model)).clamp(min=0)
    V, Q = (x.detach() for x in prefix_values(model, rewards))
    noise = torch.randn(V.shape, generator=torch.Generator().manual_seed(3), dtype=V.dtype)
    tokens = enumerate_responses(model).response_ids
    for advantages in (
        returns,
        returns - V[states],  # the best baseline of a state
        returns - noise[states],  # any baseline of a state
        Q[states, tokens] - V[states],  # the exact advantage
    ):
        found = -expected_loss_gradient(
            model, reinforce_loss(enumerated_logprobs(model), advantages)
        )
        close(found, exact)


@pytest.mark.parametrize("name", NAMES)
def test_k1_in_the_reward_follows_the_kl_of_the_sequence(name):
    """Reward 0, price 1: REINFORCE's expectation is -∇KL(π‖ref), whole."""
    model, ref = build(name, seed=0), build(name, seed=1)
    logprobs, ref_logprobs = enumerated_logprobs(model), enumerated_logprobs(ref).detach()
    mask = enumerate_responses(model).response_mask
    nothing = torch.zeros(len(mask), dtype=torch.float64)
    rewards = per_token_kl_reward(nothing, logprobs, ref_logprobs, mask, beta=1.0)
    found = expected_loss_gradient(model, reinforce_loss(logprobs, returns_to_go(model, rewards)))
    close(found, gradient(sequence_kl(model, ref), model))


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_per_token_follows_the_kl_at_fixed_prefixes(name):
    model, ref = build(name, seed=0), build(name, seed=1)
    logprobs, ref_logprobs = enumerated_logprobs(model), enumerated_logprobs(ref).detach()
    k2 = expected_loss_gradient(model, kl_k2(logprobs, ref_logprobs))
    k3 = expected_loss_gradient(model, kl_k3(logprobs, ref_logprobs))
    close(k2, gradient(fixed_prefix_kl(model, ref), model))
    close(k3, gradient(fixed_prefix_kl(ref, model, drawn_by=model), model))
    whole = [gradient(kl, model) for kl in (sequence_kl(model, ref), sequence_kl(ref, model))]
    if SPACES[name][2] == 1:  # one token: there is no prefix whose probability could change
        close(k2, whole[0])
        close(k3, whole[1])
    else:
        assert differ(k2, whole[0])
        assert differ(k3, whole[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_on_the_whole_log_ratio_follows_the_kl_of_the_sequence(name):
    model, ref = build(name, seed=0), build(name, seed=1)
    weights = sequence_logprobs(model).exp().detach() / len(model.space.prompts)
    both = sequence_logprobs(model), sequence_logprobs(ref).detach()
    k2, k3 = (gradient((weights * k(*both)).sum(), model) for k in (kl_k2, kl_k3))
    close(k2, gradient(sequence_kl(model, ref), model))
    close(k3, gradient(sequence_kl(ref, model), model))


# --- any distribution over responses is a policy over tokens ---------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_matching_gives_each_response_its_probability(name):
    model = build(name)
    weights = random_rewards(model)
    N = len(model.space.prompts)
    right = torch.log_softmax(weights.reshape(N, -1), dim=1).flatten()
    close(sequence_logprobs(matching(model, weights)), right)
    # A model's own probabilities give the model back, up to a constant per state.
    again = matching(model, sequence_logprobs(model).detach())
    close(again.table.log_softmax(-1), model.table.log_softmax(-1))


def test_matching_does_not_overflow():
    model = build("eos")
    close(
        sequence_logprobs(matching(model, 1000.0 * random_rewards(model))),
        torch.log_softmax(1000.0 * random_rewards(model), dim=0),
    )


@pytest.mark.parametrize("name", ["fixed", "eos-two-prompts"])
def test_the_optimum_of_reward_minus_kl(name):
    """π* ∝ ref · exp(R/β): E[R] - β KL(π*‖ref) = β log Z, and no direction leads up from there."""
    ref, beta = build(name), 0.5
    rewards = random_rewards(ref)
    tilted = sequence_logprobs(ref).detach() + rewards / beta
    best = matching(ref, tilted)
    value = expected_reward(best, rewards) - beta * sequence_kl(best, ref)
    log_Z = tilted.reshape(len(ref.space.prompts), -1).logsumexp(1).mean()
    close(value, beta * log_Z)
    close(gradient(value, best), torch.zeros_like(best.table))
    g = torch.Generator().manual_seed(2)
    for _ in range(5):
        step = 0.1 * torch.randn(best.table.shape, generator=g, dtype=torch.float64)
        near = best.like(best.table + step)
        assert expected_reward(near, rewards) - beta * sequence_kl(near, ref) < value


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [expected_reward, prefix_values, policy_gradient, matching])
def test_rewards_that_do_not_fit(call):
    model = build("eos")
    with pytest.raises(ValueError, match=r"shape \(14,\); one number for each of the 15"):
        call(model, torch.zeros(14))
    rewards = torch.zeros(15)
    rewards[4] = torch.nan
    with pytest.raises(ValueError, match=r"\[4\] = nan"):
        call(model, rewards)


def test_pass_at_k_needs_zeros_and_ones():
    with pytest.raises(ValueError, match="rewards of 0 or 1"):
        expected_pass_at_k(coin(), torch.tensor([0.0, 0.5, 1.0]), k=2)
    with pytest.raises(ValueError, match="k=0"):
        expected_pass_at_k(coin(), torch.tensor([0.0, 0.0, 1.0]), k=0)


def test_models_of_other_texts_are_not_compared():
    one, other = build("eos"), build("eos-first")
    for call in (
        lambda: sequence_kl(one, other),
        lambda: fixed_prefix_kl(one, other),
        lambda: fixed_prefix_kl(one, one, drawn_by=other),
    ):
        with pytest.raises(ValueError, match=r"do not know the same texts.*like"):
            call()
