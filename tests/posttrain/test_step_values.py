"""States and their Monte Carlo values: against a slow loop, against exact values, and counted."""

import math
from dataclasses import replace

import pytest
import torch
from small_policies import CHARACTERS, small_policy

from rlbook.lm import gpt2
from rlbook.lm.exact import enumerate_responses, prefix_values, response_states
from rlbook.lm.policy import Policy
from rlbook.lm.sampling import sample_responses
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.task import Problem, Task
from rlbook.posttrain import step_values
from rlbook.posttrain.experience import gather_experience
from rlbook.posttrain.step_values import State, rollout_values, states_of, steps_of

LIMIT = 10


def after_signs(text):
    """A step ends after each sign."""
    ends = [i + 1 for i, character in enumerate(text) if character in "+-*=;."]
    return ends if ends[-1:] == [len(text)] else [*ends, len(text)]


def share_of_small_digits(prompts, texts):
    return [sum(c in "01234" for c in text) / LIMIT for text in texts]


@pytest.fixture
def task() -> Task:
    return Task.from_functions(
        list(CHARACTERS[:6]), share_of_small_digits, after_signs, max_new_tokens=LIMIT
    )


def batch_of(policy, task, *, N=4, K=3, seed=0):
    return gather_experience(
        policy, task, prompts=N, rollouts_per_prompt=K, temperature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens_prefilled(monkeypatch):
    """How many tokens the book's GPT-2 reads into empty caches, call by call, from now on."""
    counts = []
    original = gpt2.hidden_states

    def noted(model, ids, *, attention_mask=None, cache=None, **options):
        if cache is not None and cache.length == 0:
            counts.append(ids.numel() if attention_mask is None else int(attention_mask.sum()))
        return original(model, ids, attention_mask=attention_mask, cache=cache, **options)

    monkeypatch.setattr(gpt2, "hidden_states", noted)
    return counts


# --- states and steps ------------------------------------------------------------------------


def test_a_state_is_the_text_before_a_step(policy, task):
    batch = batch_of(policy, task)
    index = steps_of(policy, task, batch)
    states, exists = states_of(batch, index)
    rows = exists.nonzero()[:, 0].tolist()
    assert len(states) == len(rows) and exists.sum(dim=1).max() > 2
    for row in range(len(batch.rewards)):
        own = [state for state, i in zip(states, rows, strict=True) if i == row]
        text = batch.responses.texts[row]
        begins = [0, *after_signs(text)[:-1]]
        written = [policy.decode(state.written) for state in own]
        if text:  # EOS belongs to the last step
            assert written == [text[:end] for end in begins]
        assert all(policy.decode(s.prompt) == batch.problems[row].prompt for s in own)
        assert exists[row].tolist() == [i < len(own) for i in range(exists.shape[1])]


def test_a_state_begins_with_its_own_prompt_without_padding(policy):
    task = Task.from_functions(["1", "2+3", "4-5*6"], share_of_small_digits, max_new_tokens=LIMIT)
    batch = batch_of(policy, task, N=3, K=1)
    states, _ = states_of(batch, steps_of(policy, task, batch))
    assert [list(state.prompt) for state in states] == policy.encode(
        [problem.prompt for problem in batch.problems]
    )
    assert len({len(state.prompt) for state in states}) == 3


def test_steps_are_joined_evenly(policy, task):
    batch = batch_of(policy, task, N=6, K=6)
    whole = steps_of(policy, task, batch)
    for most in (1, 2, 3):
        joined = steps_of(policy, task, batch, most=most)
        for row, (fine, coarse) in enumerate(zip(whole.tolist(), joined.tolist(), strict=True)):
            T = int(batch.responses.lengths[row])
            count = max(fine) + 1
            if count <= most:
                assert coarse == fine
                continue
            assert coarse[T:] == fine[T:] and set(coarse[:T]) == set(range(most))
            sizes = [len({f for f, c in zip(fine[:T], coarse[:T], strict=True) if c == i})
                     for i in range(most)]  # fmt: skip
            assert max(sizes) - min(sizes) <= 1 and sum(sizes) == count
    assert (whole.max(dim=1).values >= 3).any()
    with pytest.raises(ValueError, match="most=0: a response has at least one step"):
        steps_of(policy, task, batch, most=0)


# --- values ----------------------------------------------------------------------------------


def test_greedy_values_are_those_of_a_slow_loop(policy, task):
    """At temperature 0 every rollout is the same, so values can be had one by one."""
    batch = batch_of(policy, task)
    states, _ = states_of(batch, steps_of(policy, task, batch))
    found = rollout_values(policy, task, states, rollouts=2, temperature=0, generator=seeded())
    for state, value in zip(states, found.values.tolist(), strict=True):
        rest = sample_responses(
            policy, [list(state.prompt + state.written)], temperature=0,
            max_new_tokens=LIMIT - len(state.written),
        )  # fmt: skip
        text = policy.decode(state.written) + rest.texts[0]
        expected = 0.0 if rest.truncated[0] else share_of_small_digits([""], [text])[0]
        assert value == pytest.approx(expected)
    for most in (5, 1):  # fewer rows than a state has rollouts: one state at a time
        again = rollout_values(
            policy, task, states, rollouts=2, temperature=0, generator=seeded(), most_rows=most
        )
        assert torch.equal(again.values, found.values)
        assert again.generated == found.generated
    texts = {state.prompt + state.written for state in states}
    assert again.prefilled == sum(map(len, texts)) > found.prefilled  # one by one nothing is shared


@pytest.fixture(scope="module")
def table():
    """A table with an EOS, a 0/1 reward, and exact values of all its states."""
    model = TabularLM.with_eos(torch.Generator().manual_seed(3), max_new_tokens=3)
    every = enumerate_responses(model)
    rewards = torch.tensor(
        [float("1" in text and not cut) for text, cut in
         zip(every.texts, every.truncated.tolist(), strict=True)], dtype=torch.float64,
    )  # fmt: skip
    task = Task.from_functions(
        [list(x) for x in model.space.prompts],
        lambda prompts, texts: [float("1" in text) for text in texts],
        max_new_tokens=3,
    )
    V, _ = prefix_values(model, rewards)
    states = {}
    for row, numbers in enumerate(response_states(model, every).tolist()):
        prompt = tuple(every.prompt_ids[row][every.prompt_mask[row]].tolist())
        for t in range(int(every.lengths[row])):
            written = tuple(every.response_ids[row, :t].tolist())
            states[State(Problem(prompt), prompt, written)] = V[numbers[t]].item()
    return Policy(model), task, list(states), torch.tensor(list(states.values()))


def test_values_are_unbiased(table):
    """4,000 rollouts of each state; |z| < 4.5 for a dozen states fails by chance in 1 of 10⁴."""
    policy, task, states, V = table
    K = 4000
    found = rollout_values(policy, task, states, rollouts=K, generator=seeded(1))
    sd = (V * (1 - V) / K).sqrt()
    assert len(states) > 5 and ((V > 0.05) & (V < 0.95)).sum() > 4
    assert ((found.values - V).abs() <= 4.5 * sd + 1e-6).all()


def test_their_variance_is_that_of_a_coin(table):
    """V(1 - V)/K, here K = 4, from 2,500 estimates: the sample variance is within 15% of it (its
    standard error is below 3%, so 1 of 10⁶). A state of another problem is another state."""
    policy, task, states, V = table
    state = states[int((V - 0.5).abs().argmin())]
    value = V[states.index(state)].item()
    others = [replace(state, problem=Problem(state.problem.prompt, str(i))) for i in range(2500)]
    found = rollout_values(policy, task, others, rollouts=4, generator=seeded(2))
    assert found.distinct == 2500
    assert found.values.var().item() == pytest.approx(value * (1 - value) / 4, rel=0.15)
    assert found.values.mean().item() == pytest.approx(value, abs=5 * math.sqrt(0.25 / 10_000))


def test_equal_states_are_rolled_out_once(policy, task, monkeypatch):
    asked = []

    def counted(policy, prompts, **options):
        asked.extend(map(tuple, prompts))
        found = sample_responses(policy, prompts, **options)
        counted.tokens += int(found.response_mask.sum())
        return found

    counted.tokens = 0
    monkeypatch.setattr(step_values, "sample_responses", counted)
    batch = batch_of(policy, task, N=3, K=8)
    states, _ = states_of(batch, steps_of(policy, task, batch))
    found = rollout_values(policy, task, states, rollouts=3, generator=seeded(), most_rows=12)
    assert len(asked) == len(set(asked)) == found.distinct == len(set(states)) < len(states)
    assert found.generated == counted.tokens
    values = {}
    for state, value in zip(states, found.values.tolist(), strict=True):
        assert values.setdefault(state, value) == value
    assert len(set(values.values())) > 3


def test_the_states_of_a_response_are_read_in_one_pass(policy, task, monkeypatch):
    """Two responses to one prompt, by hand."""
    read = tokens_prefilled(monkeypatch)

    def state(prompt, written):
        both = (tuple(policy.encode([text])[0]) if text else () for text in (prompt, written))
        return State(Problem(prompt), *both)

    states = [state("12", written) for written in ("", "3+", "3+45-", "3+45-6=", "3+7-")]
    found = rollout_values(policy, task, states, rollouts=3, generator=seeded())
    assert read == [9 + 6] and found.prefilled == 15 and found.distinct == 5
    # Another problem with the same text is another state, but the same text.
    again = [replace(s, problem=Problem("12", "other")) for s in states]
    found = rollout_values(policy, task, states + again, rollouts=3, generator=seeded())
    assert read[1:] == [15] and found.prefilled == 15 and found.distinct == 10
    # Portions of two, the longest first: (12 3+45-6=, 12 3+45-), (12 3+7-, 12 3+), (12).
    read.clear()
    found = rollout_values(policy, task, states, rollouts=3, generator=seeded(), most_rows=6)
    assert read == [9, 6, 2] and found.prefilled == 17


def test_a_batch_takes_the_tokens_that_are_counted(policy, task, monkeypatch):
    batch = batch_of(policy, task, N=6, K=4)
    states, _ = states_of(batch, steps_of(policy, task, batch))
    read = tokens_prefilled(monkeypatch)
    found = rollout_values(policy, task, states, rollouts=2, generator=seeded())
    texts = {state.prompt + state.written for state in states}
    whole = [a for a in texts if not any(b != a and b[: len(a)] == a for b in texts)]
    assert read == [found.prefilled] == [sum(map(len, whole))]
    assert found.prefilled < 0.7 * sum(map(len, texts))


def test_rollouts_are_sampled_as_responses_are(policy, task, monkeypatch):
    """The temperature and the ends are those that the task's responses have."""
    seen = {}

    def noted(policy, prompts, **options):
        seen.update(options)
        return sample_responses(policy, prompts, **options)

    monkeypatch.setattr(step_values, "sample_responses", noted)
    (end,) = policy.encode([";"])[0]
    monkeypatch.setattr(task, "stop_ids", lambda policy: [end], raising=False)
    state = State(Problem("1"), tuple(policy.encode(["1"])[0]))
    found = rollout_values(policy, task, [state], rollouts=64, temperature=0.7, generator=seeded(4))
    assert (seen["temperature"], seen["stop"]) == (0.7, [end])
    seen["generator"].manual_seed(4)
    drawn = sample_responses(policy, [list(state.prompt)], **seen)
    own = [0.0 if cut else share_of_small_digits([""], [text])[0]
           for cut, text in zip(drawn.truncated, drawn.texts, strict=True)]  # fmt: skip
    assert found.values[0].item() == pytest.approx(sum(own) / 64, abs=1e-6)
    assert any(text.endswith(";") for text in drawn.texts)


def test_a_rollout_ends_where_the_response_would_have_had_to(policy, task):
    """A state with 9 of 10 tokens has one left: it earns something only by EOS, at once."""
    prompt, written = tuple(policy.encode(["1"])[0]), tuple(policy.encode(["012340123"])[0])
    state = State(Problem("1"), prompt, written)
    found = rollout_values(policy, task, [state], rollouts=2000, generator=seeded())
    assert found.generated == 2000
    drawn = sample_responses(
        policy, [list(prompt + written)], samples_per_prompt=2000, max_new_tokens=1,
        generator=seeded(),
    )  # fmt: skip
    ended = (~drawn.truncated).float().mean()
    assert 0 < ended and found.values[0].item() == pytest.approx(0.9 * ended.item())


def test_what_cannot_be_valued_is_refused(policy, task):
    state = State(Problem("1"), (3,), tuple([4] * LIMIT))
    with pytest.raises(ValueError, match="a state has 10 tokens already, and the task's limit is"):
        rollout_values(policy, task, [state], rollouts=2, generator=seeded())
    with pytest.raises(ValueError, match="rollouts=0: a value needs at least one"):
        rollout_values(policy, task, [state], rollouts=0, generator=seeded())
    with pytest.raises(ValueError, match="there are no prompts"):
        rollout_values(policy, task, [], rollouts=2, generator=seeded())


def test_other_architectures_give_values_too(task):
    policy = small_policy("llama")
    batch = batch_of(policy, task)
    states, _ = states_of(batch, steps_of(policy, task, batch))
    found = rollout_values(policy, task, states, rollouts=4, generator=seeded())
    assert found.values.isfinite().all() and 0 < found.values.max() <= 1
