"""Sampling: against generate, against exact probabilities, and against a naive loop."""

import math

import pytest
import torch
from scipy import stats
from small_models import ARCHITECTURES, EOS, PAD, char_tokenizer, tiny_gpt2
from transformers import TopKLogitsWarper, TopPLogitsWarper

from rlbook.lm import decoding, gpt2, sampling
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.sampling import draw, restrict, sample_responses
from rlbook.lm.tabular_lm import TabularLM

PROMPTS = ["3+5=", "12-3-4*2=", "7"]
LIMIT = 16


def policy_of(architecture="gpt2", **settings):
    return Policy(ARCHITECTURES[architecture](**settings), char_tokenizer())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_read(monkeypatch):
    """How many rows each forward pass of the book's GPT-2 reads from now on."""
    read = []
    original = decoding._GPT2Reader.read
    monkeypatch.setattr(
        decoding._GPT2Reader, "read",
        lambda self, ids, positions: read.append(len(ids)) or original(self, ids, positions),
    )  # fmt: skip
    return read


def tokens_prefilled(monkeypatch):
    """The texts that the book's GPT-2 reads from now on into empty caches."""
    read = []
    original = gpt2.hidden_states

    def noted(model, ids, *, attention_mask=None, cache=None, **options):
        if cache is not None and cache.length == 0:
            mask = torch.ones_like(ids) if attention_mask is None else attention_mask
            read.extend(row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True))
        return original(model, ids, attention_mask=attention_mask, cache=cache, **options)

    monkeypatch.setattr(gpt2, "hidden_states", noted)
    return read


def tokens(responses):
    return [row[mask].tolist() for row, mask in zip(*_ids(responses), strict=True)]


def _ids(responses):
    return responses.response_ids, responses.response_mask


def same(a, b):
    return tokens(a) == tokens(b) and torch.equal(a.truncated, b.truncated)


# Two families, the first with a branch that is not nested; equal ones; and one without family.
NESTED = ["3+", "12", "3+5=8", "7", "3+5", "12-3*4=", "3", "3+5", "3+5=9;1", "12-3*4="]


# --- against transformers' generate ----------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_equal_generates(architecture, seed):
    policy = policy_of(architecture, seed=seed)
    ours = sample_responses(policy, PROMPTS, max_new_tokens=LIMIT, temperature=0)
    for prompt, found in zip(policy.encode(PROMPTS), tokens(ours), strict=True):
        theirs = policy.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
            do_sample=False, max_new_tokens=LIMIT,
        )[0, len(prompt) :]  # fmt: skip
        assert found == theirs.tolist()


def naive(policy, prompt, uniforms, temperature=1.0):
    """One row at a time, no cache: a whole forward for each token, a walk along the sums."""
    ids, logprobs = list(prompt), []
    for u in uniforms:
        with torch.no_grad():
            logits = policy.model(torch.tensor([ids])).logits[0, -1] / temperature
        logp = logits.double().log_softmax(0)
        reached, token = 0.0, -1
        while reached <= u:
            token += 1
            reached += math.exp(logp[token])
        ids.append(token)
        logprobs.append(float(logp[token]))
        if token == policy.eos_id:
            break
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_sampled_tokens_equal_a_naive_loops(architecture, temperature):
    policy, K = policy_of(architecture), 4
    uniforms = torch.rand(LIMIT, len(PROMPTS) * K, generator=seeded(3), dtype=torch.float64)
    ours = sample_responses(
        policy, PROMPTS, samples_per_prompt=K, max_new_tokens=LIMIT, temperature=temperature,
        generator=seeded(3),
    )  # fmt: skip
    lengths = set()
    for row, found in enumerate(tokens(ours)):
        prompt = policy.encode([PROMPTS[row // K]])[0]
        expected, logprobs = naive(policy, prompt, uniforms[:, row].tolist(), temperature)
        assert found == expected
        got = ours.sampler_logprobs[row, : len(found)]
        torch.testing.assert_close(got, torch.tensor(logprobs), rtol=1e-5, atol=1e-5)
        assert ours.truncated[row] == (expected[-1] != EOS)
        assert ours.texts[row] == policy.decode([t for t in expected if t != EOS])
        lengths.add(len(found))
    assert len(lengths) > 1  # some rows ended before others


@pytest.mark.parametrize("share", [1e-9, 2.0])  # rows that have ended are dropped at once, never
@pytest.mark.parametrize("prompts", [NESTED, ["3+5=", "3"], ["3", "3+5=", "7-2="]])
def test_nested_prompts_equal_a_naive_loop(prompts, share, monkeypatch):
    monkeypatch.setattr(decoding, "DROP_FROM", share)
    policy, K = policy_of(), 3
    limits = [LIMIT - len(prompt) for prompt in prompts]
    uniforms = torch.rand(max(limits), len(prompts) * K, generator=seeded(3), dtype=torch.float64)
    ours = sample_responses(
        policy, prompts, samples_per_prompt=K, max_new_tokens=limits, generator=seeded(3)
    )
    for row, found in enumerate(tokens(ours)):
        prompt, limit = policy.encode([prompts[row // K]])[0], limits[row // K]
        assert ours.prompt_ids[row][ours.prompt_mask[row]].tolist() == prompt
        expected, logprobs = naive(policy, prompt, uniforms[:limit, row].tolist())
        assert found == expected
        got = ours.sampler_logprobs[row, : len(found)]
        torch.testing.assert_close(got, torch.tensor(logprobs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_sampler_logprobs_are_those_of_scoring(architecture, temperature):
    """The tolerance is the issue's: two ways through a network, in float32."""
    policy = policy_of(architecture)
    ours = sample_responses(
        policy, PROMPTS, samples_per_prompt=3, max_new_tokens=LIMIT, temperature=temperature,
        top_k=20, generator=seeded(),
    )  # fmt: skip
    with torch.no_grad():
        scored = response_logprobs(policy.model, ours, temperature=temperature or 1.0)
    torch.testing.assert_close(ours.sampler_logprobs, scored, rtol=1e-4, atol=1e-4)
    assert (ours.sampler_logprobs[~ours.response_mask] == 0).all()
    assert not ours.sampler_logprobs.requires_grad


# --- exact probabilities ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [TabularLM.fixed_length, TabularLM.with_eos])
def test_frequencies_match_exact_probabilities(make):
    """χ² over whole responses; a right sampler fails with probability 1e-4, were it not seeded."""
    model = make(seeded(1), prompts=((0,), (1, 2)))
    policy, K = Policy(model), 4000
    ours = sample_responses(
        policy, [[0], [1, 2]], samples_per_prompt=K, max_new_tokens=3, generator=seeded(5)
    )
    rows = tokens(ours)
    for n, prompt in enumerate(([0], [1, 2])):
        drawn = rows[n * K : (n + 1) * K]
        exact = _probabilities(model, prompt, policy.eos_id)
        assert sum(exact.values()) == pytest.approx(1.0, abs=1e-12)
        counts = [sum(tuple(row) == text for row in drawn) for text in exact]
        expected = [K * p for p in exact.values()]
        assert sum(counts) == K and min(expected) > 1
        assert stats.chisquare(counts, expected).pvalue > 1e-4


def _probabilities(model, prompt, eos, prefix=(), limit=3):
    """Every response and its probability, by asking the table for each prefix."""
    if len(prefix) == limit or (prefix and prefix[-1] == eos):
        return {prefix: 1.0}
    p = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1].softmax(0).tolist()
    found = {}
    for token, share in enumerate(p):
        rest = _probabilities(model, prompt, eos, (*prefix, token), limit)
        found |= {text: share * q for text, q in rest.items()}
    return found


def test_a_table_gives_exact_logprobs():
    model = TabularLM.with_eos(seeded(1))
    ours = sample_responses(
        Policy(model), [[0]], samples_per_prompt=20, max_new_tokens=3, generator=seeded()
    )
    exact = _probabilities(model, [0], Policy(model).eos_id)
    for row, total in zip(tokens(ours), ours.sampler_logprobs.sum(dim=1).tolist(), strict=True):
        assert total == pytest.approx(math.log(exact[tuple(row)]), abs=1e-9)
    assert ours.texts[0] == " ".join(str(t) for t in tokens(ours)[0] if t != 2)


# --- one token -------------------------------------------------------------------------------


def test_draw_by_hand():
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()  # token 1 is ruled out
    cases = {0.0: 0, 0.199: 0, 0.201: 2, 0.699: 2, 0.701: 3, 1 - 2**-24: 3}
    for u, token in cases.items():
        assert draw(logits, torch.tensor([u], dtype=torch.float64)).tolist() == [token]
    last_ruled_out = torch.tensor([[0.0, 1.0, -math.inf, -math.inf]])
    assert draw(last_ruled_out, torch.tensor([1 - 2**-24], dtype=torch.float64)).item() == 1
    first_ruled_out = torch.tensor([[-math.inf, 1.0]])
    assert draw(first_ruled_out, torch.zeros(1, dtype=torch.float64)).item() == 1


def test_restrict_by_hand():
    logits = torch.tensor([0.4, 0.1, 0.3, 0.2]).log()
    kept = lambda **limits: restrict(logits, **limits).isfinite().tolist()  # noqa: E731
    assert kept() == [True] * 4
    assert kept(top_k=2) == [True, False, True, False]
    assert kept(top_k=9) == [True] * 4
    assert kept(top_p=0.5) == [True, False, True, False]
    assert kept(top_p=0.39) == [True, False, False, False]
    assert kept(top_p=1e-9) == [True, False, False, False]
    # top-p looks at what top-k has left: 0.4 / 0.7 = 0.57 of it is token 0
    assert kept(top_k=2, top_p=0.55) == [True, False, False, False]


@pytest.mark.parametrize("limits", [{"top_k": 5}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.4}])
def test_restrict_equals_transformers(limits):
    logits = 2 * torch.randn(200, 31, generator=seeded(2))
    theirs = logits
    if "top_k" in limits:
        theirs = TopKLogitsWarper(limits["top_k"])(None, theirs)
    if "top_p" in limits:
        theirs = TopPLogitsWarper(limits["top_p"])(None, theirs)
    torch.testing.assert_close(restrict(logits, **limits), theirs, rtol=0, atol=0)


@pytest.mark.parametrize("limits", [{"top_k": 3}, {"top_p": 0.5}])
def test_what_is_ruled_out_is_never_drawn(limits):
    policy = policy_of()
    ours = sample_responses(
        policy, ["3"], samples_per_prompt=300, max_new_tokens=1, generator=seeded(), **limits
    )
    with torch.no_grad():
        logits = policy.model(torch.tensor(policy.encode(["3"]))).logits[0, -1]
    allowed = restrict(logits, **limits).isfinite().nonzero()[:, 0].tolist()
    assert 1 < len(allowed) < 20
    assert {row[0] for row in tokens(ours)} == set(allowed)


# --- seeds, rows, ends -----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_text():
    policy = policy_of()
    settings = {"samples_per_prompt": 4, "max_new_tokens": LIMIT}
    first, again, other = (
        sample_responses(policy, PROMPTS, generator=seeded(seed), **settings) for seed in (0, 0, 1)
    )
    assert same(first, again) and torch.equal(first.sampler_logprobs, again.sampler_logprobs)
    assert not same(first, other)


def test_a_generator_moves_on():
    policy, generator = policy_of(), seeded()
    draws = [
        sample_responses(policy, PROMPTS, max_new_tokens=LIMIT, generator=generator)
        for _ in range(2)
    ]
    assert not same(*draws)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    sample_responses(policy, PROMPTS, max_new_tokens=LIMIT, generator=generator)
    assert torch.equal(state, torch.get_rng_state())  # the global one stays where it is


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_dropping_rows_does_not_change_the_others(architecture, monkeypatch):
    policy = policy_of(architecture)
    texts = {}
    for share in (1e-9, 0.25, 2.0):  # at once, in portions, never
        monkeypatch.setattr(decoding, "DROP_FROM", share)
        texts[share] = sample_responses(
            policy, PROMPTS, samples_per_prompt=8, max_new_tokens=40, generator=seeded()
        )
    assert same(texts[1e-9], texts[0.25]) and same(texts[1e-9], texts[2.0])
    assert texts[0.25].lengths.unique().numel() > 5


def test_asking_seldom_does_not_change_the_text(monkeypatch):
    """On an accelerator nobody asks at every step whether rows have ended."""
    policy = policy_of()
    settings = {"samples_per_prompt": 8, "max_new_tokens": 40}
    often = sample_responses(policy, PROMPTS, generator=seeded(), **settings)
    real = decoding.ask_every
    monkeypatch.setattr(decoding, "ask_every", lambda device: decoding.ASK_EVERY)
    assert real(torch.device("cpu")) == 1 and real(torch.device("cuda")) == decoding.ASK_EVERY
    assert same(often, sample_responses(policy, PROMPTS, generator=seeded(), **settings))


def test_the_samples_of_a_prompt_are_contiguous():
    """Each row can be had by itself: with the uniform numbers of its place."""
    policy, K = policy_of(), 3
    ours = sample_responses(
        policy, PROMPTS, samples_per_prompt=K, max_new_tokens=LIMIT, generator=seeded()
    )
    assert len(ours) == len(PROMPTS) * K
    for n, prompt in enumerate(policy.encode(PROMPTS)):
        for row in range(n * K, n * K + K):
            assert ours.prompt_ids[row][ours.prompt_mask[row]].tolist() == prompt
    assert len({tuple(row) for row in tokens(ours)}) > 5


def test_a_prompt_given_twice_is_read_once(monkeypatch):
    policy = policy_of()
    read = rows_read(monkeypatch)
    ours = sample_responses(
        policy, ["3+", "7", "3+"], samples_per_prompt=2, max_new_tokens=2, generator=seeded()
    )
    assert read[0] == 2
    alone = sample_responses(
        policy, ["3+", "7-", "3+"], samples_per_prompt=2, max_new_tokens=2, generator=seeded()
    )
    assert read[2] == 2
    for row in (0, 1, 4, 5):
        assert tokens(ours)[row] == tokens(alone)[row]


def test_nested_prompts_draw_and_weigh_what_they_do_when_each_is_read(monkeypatch):
    """All logits, of every step: in float32 to 1e-5; and the same tokens."""
    policy, rows = policy_of(), []
    choose = sampling._Choice.__call__

    def noted(self, logits, t, left):
        assert left is None
        rows.append(logits)
        return choose(self, logits, t, left)

    monkeypatch.setattr(sampling._Choice, "__call__", noted)
    monkeypatch.setattr(decoding, "DROP_FROM", 2.0)
    settings = {"samples_per_prompt": 3, "max_new_tokens": LIMIT}
    read = tokens_prefilled(monkeypatch)
    ours = sample_responses(policy, NESTED, generator=seeded(), **settings)
    logits = torch.stack(rows)
    whole = [NESTED.index(text) for text in ("3+5=8", "7", "12-3*4=", "3+5=9;1")]
    assert read == [policy.encode(NESTED)[i] for i in whole]
    assert decoding.prefilled_tokens(policy.model, policy.encode(NESTED)) == 5 + 1 + 7 + 7
    read.clear()
    rows.clear()
    monkeypatch.setattr(sampling, "read_within", lambda model, prompts: list(range(len(prompts))))
    alone = sample_responses(policy, NESTED, generator=seeded(), **settings)
    assert read == policy.encode(NESTED)
    assert same(ours, alone) and len(set(map(tuple, tokens(ours)))) > 10
    going = torch.arange(len(logits))[:, None] < ours.lengths
    torch.testing.assert_close(logits[going], torch.stack(rows)[going], rtol=0, atol=1e-5)


def test_what_is_read_within_what():
    """By hand; then 200 random lists of short texts over two tokens, against the definition."""
    model = policy_of().model
    within = decoding.read_within
    assert within(model, [[1], [2, 3], [1, 2], [1, 2, 3], [1, 2]]) == [3, 1, 3, 3, 3]
    assert within(model, [[1, 2], [1, 3], [1, 2]]) == [0, 1, 0]
    assert within(policy_of("llama").model, [[1], [1, 2], [1], [2], [2]]) == [0, 1, 0, 3, 3]
    assert within(model, []) == []
    generator, chains = seeded(7), 0
    for _ in range(200):
        lengths = torch.randint(1, 5, (8,), generator=generator).tolist()
        texts = [torch.randint(2, (n,), generator=generator).tolist() for n in lengths]
        found = within(model, texts)
        for text, n in zip(texts, found, strict=True):
            assert texts[n][: len(text)] == text and texts.index(texts[n]) == n
            longer = [other for other in texts if other[: len(texts[n])] == texts[n]]
            assert all(other == texts[n] for other in longer)
        chains += len(set(found)) < len(set(map(tuple, texts)))
        assert decoding.prefilled_tokens(model, texts) == sum(len(texts[n]) for n in set(found))
    assert chains > 100


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_other_architectures_read_nested_prompts_one_by_one(architecture):
    policy, K = policy_of(architecture), 2
    uniforms = torch.rand(LIMIT, len(NESTED) * K, generator=seeded(3), dtype=torch.float64)
    ours = sample_responses(
        policy, NESTED, samples_per_prompt=K, max_new_tokens=LIMIT, generator=seeded(3)
    )
    for row, found in enumerate(tokens(ours)):
        prompt = policy.encode([NESTED[row // K]])[0]
        assert found == naive(policy, prompt, uniforms[:, row].tolist())[0]
    distinct = set(NESTED)
    counted = decoding.prefilled_tokens(policy.model, policy.encode(NESTED))
    assert counted == sum(map(len, distinct)) and len(distinct) == len(NESTED) - 2


def test_a_longer_limit_begins_the_same():
    policy = policy_of()
    short, long = (
        sample_responses(
            policy, PROMPTS, samples_per_prompt=16, max_new_tokens=T, generator=seeded()
        )
        for T in (5, LIMIT)
    )
    assert [row[:5] for row in tokens(long)] == tokens(short)
    cut = [len(row) > 5 or row[-1] != EOS for row in tokens(long)]
    assert short.truncated.tolist() == cut and any(cut) and not all(cut)


def test_eos_belongs_to_the_response_and_pad_does_not():
    """Also where pad is EOS, as in GPT-2."""
    tokenizer = char_tokenizer()
    tokenizer.pad_token = None
    for policy in (policy_of(), Policy(tiny_gpt2(), tokenizer)):
        ours = sample_responses(
            policy, PROMPTS, samples_per_prompt=8, max_new_tokens=LIMIT, generator=seeded()
        )
        for row, cut in zip(tokens(ours), ours.truncated.tolist(), strict=True):
            assert (row[-1] == EOS) != cut and EOS not in row[:-1]
        assert (ours.response_ids[~ours.response_mask] == policy.pad_id).all()
        assert ours.response_mask.any(dim=0).all()  # no column is padding alone
        assert not any("<" in text for text in ours.texts)


def test_stop_tokens_end_a_response_as_eos_does():
    policy = policy_of()
    (plus,) = policy.encode(["+"])[0]
    settings = {"samples_per_prompt": 8, "max_new_tokens": LIMIT}
    free = sample_responses(policy, PROMPTS, generator=seeded(), **settings)
    ours = sample_responses(policy, PROMPTS, generator=seeded(), stop=[plus], **settings)
    for whole, row in zip(tokens(free), tokens(ours), strict=True):
        assert row == whole[: whole.index(plus) + 1 if plus in whole else None]
    assert any(row[-1] == plus for row in tokens(ours))


def test_a_response_of_one_token():
    ours = sample_responses(
        policy_of(), PROMPTS, samples_per_prompt=2, max_new_tokens=1, generator=seeded()
    )
    assert ours.response_ids.shape == (6, 1)


def test_sampled_responses_can_be_trained_on():
    """No tensor of inference mode is left behind."""
    policy = policy_of()
    ours = sample_responses(policy, PROMPTS, max_new_tokens=4, generator=seeded())
    ratio = (response_logprobs(policy.model, ours) - ours.sampler_logprobs).exp()
    ratio.sum().backward()
    assert policy.model.transformer.wte.weight.grad.abs().max() > 0


# --- caches we do not know -------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generate_makes_the_same_choices(architecture, monkeypatch):
    policy = policy_of(architecture)
    settings = {"samples_per_prompt": 3, "max_new_tokens": LIMIT}
    ours = sample_responses(policy, PROMPTS, generator=seeded(), **settings)
    policy.model.generation_config.repetition_penalty = 5.0  # is set aside
    theirs = policy.model.generation_config
    monkeypatch.setattr(decoding, "_reader", lambda *_: None)
    fallback = sample_responses(policy, PROMPTS, generator=seeded(), **settings)
    assert same(ours, fallback)
    torch.testing.assert_close(
        ours.sampler_logprobs, fallback.sampler_logprobs, rtol=1e-5, atol=1e-5
    )
    assert policy.model.generation_config is theirs


def test_a_model_whose_cache_is_no_list_of_rows():
    """Mamba keeps a state and takes no past_key_values."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=31, hidden_size=16, state_size=4, num_hidden_layers=1, eos_token_id=EOS,
        pad_token_id=PAD,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = Policy(MambaForCausalLM(config), char_tokenizer())
    assert decoding._reader(policy.model, torch.ones(1, 1, dtype=torch.bool), 1) is None
    prompts = ["3+5=", "12-3"]
    uniforms = torch.rand(6, 2, generator=seeded(), dtype=torch.float64)
    ours = sample_responses(policy, prompts, max_new_tokens=6, generator=seeded())
    for row, prompt in enumerate(policy.encode(prompts)):
        assert tokens(ours)[row] == naive(policy, prompt, uniforms[:, row].tolist())[0]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_peft_model_samples_as_its_merged_copy_does(tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(
        target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    policy = Policy(peft.get_peft_model(tiny_gpt2(), lora), char_tokenizer())
    merged = load_policy(policy.save(tmp_path), device="cpu")
    settings = {"samples_per_prompt": 3, "max_new_tokens": LIMIT}
    ours = sample_responses(policy, PROMPTS, generator=seeded(), **settings)
    assert same(ours, sample_responses(merged, PROMPTS, generator=seeded(), **settings))
    plain = sample_responses(policy_of(), PROMPTS, generator=seeded(), **settings)
    assert not same(ours, plain)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": []}, "there are no prompts: give at least one"),
        ({"prompts": "3+5="}, r"prompts must be a list; for a single one write \[prompt\]"),
        ({"prompts": ["3", ""]}, "prompt 1 is empty: the first token is predicted from a last"),
        (
            {"prompts": ["3", "1" * 50], "max_new_tokens": 15},
            "prompt 1 has 50 tokens, and max_new_tokens=15 more do not fit .* context of 64",
        ),
        ({"temperature": -0.5}, r"temperature=-0\.5 must be 0 \(greedy\) or above"),
        ({"temperature": math.nan}, "temperature=nan must be 0"),
        ({"temperature": math.inf}, "temperature=inf must be 0"),
        ({"top_p": 0.0}, r"top_p=0\.0 must be above 0 and at most 1"),
        ({"top_p": 1.01}, r"top_p=1\.01 must be above 0 and at most 1"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"samples_per_prompt": 0}, "samples_per_prompt=0 must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"generator": None}, r"sampling needs generator=torch.Generator\(\).manual_seed"),
        ({"stop": [31]}, "stop holds the token id 31, but the model has ids 0 to 30"),
    ],
)
def test_bad_input_gets_one_clear_line(settings, message):
    arguments = {"prompts": ["3"], "max_new_tokens": 4, "generator": seeded()} | settings
    with pytest.raises(ValueError, match=message) as error:
        sample_responses(policy_of(), arguments.pop("prompts"), **arguments)
    assert "\n" not in str(error.value)


def test_a_prompt_that_just_fits():
    ours = sample_responses(policy_of(), ["1" * 50], max_new_tokens=14, temperature=0)
    assert ours.lengths.item() <= 14


def test_weights_that_have_diverged():
    policy = policy_of()
    with torch.no_grad():
        policy.model.transformer.ln_f.bias[0] = math.nan
    with pytest.raises(ValueError, match="logits for response 0 are not numbers: its weights"):
        sample_responses(policy, PROMPTS, max_new_tokens=4, generator=seeded())


def test_without_an_end_a_response_at_the_limit_is_whole():
    policy = Policy(TabularLM.fixed_length(torch.Generator().manual_seed(0)))
    drawn = sample_responses(
        policy, [[0]], samples_per_prompt=4, max_new_tokens=3, generator=torch.Generator()
    )
    assert drawn.response_mask.all() and not drawn.truncated.any()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_each_prompt_may_have_its_own_limit(architecture):
    policy, K, limits = policy_of(architecture), 4, [3, LIMIT, 1]
    assert len(PROMPTS) == len(limits)
    common = {"samples_per_prompt": K}
    own = sample_responses(policy, PROMPTS, max_new_tokens=limits, generator=seeded(), **common)
    same_for_all = sample_responses(
        policy, PROMPTS, max_new_tokens=LIMIT, generator=seeded(), **common
    )
    cut = 0
    for row, (short, long) in enumerate(zip(tokens(own), tokens(same_for_all), strict=True)):
        limit = limits[row // K]
        assert short == long[:limit]
        assert own.truncated[row] == (policy.eos_id not in short)
        cut += int(own.truncated[row])
    assert 0 < cut < len(own)


@pytest.mark.parametrize("others", [1, 9])  # with nine the ended row is still read for a while
def test_a_row_at_the_end_of_the_context_may_stop_before_the_others(others):
    policy = policy_of()
    long = [1] * (policy.context - 2)
    found = sample_responses(
        policy, [long, *[[1]] * others], max_new_tokens=[2, *[30] * others], generator=seeded()
    )
    assert found.lengths[0] <= 2 < found.lengths[1:].max()


def test_rows_at_their_limit_are_not_read_on(monkeypatch):
    policy = policy_of()
    read = rows_read(monkeypatch)
    sample_responses(policy, [[1]] * 8, max_new_tokens=[1] * 7 + [4], generator=seeded())
    assert max(read[1:]) == 1


def test_limits_are_one_number_or_one_per_prompt():
    policy = policy_of()
    with pytest.raises(ValueError, match="2 limits for 3 prompts: give one number, or one per"):
        sample_responses(policy, PROMPTS, max_new_tokens=[3, 4], generator=seeded())
    with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
        sample_responses(policy, PROMPTS, max_new_tokens=[3, 0, 2], generator=seeded())
    with pytest.raises(ValueError, match="prompt 1 has 60 tokens, and max_new_tokens=30 more"):
        sample_responses(policy, [[1], [1] * 60], max_new_tokens=[1, 30], generator=seeded())
