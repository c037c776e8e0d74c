"""A train batch: who asks, how it samples, what is rewarded, and how the batch is cut."""

import pytest
import torch
from mixed_batches import mixed_batch
from small_policies import CHARACTERS, small_policy

from rlbook.lm.policy import Policy
from rlbook.lm.tasks.task import Task
from rlbook.posttrain.experience import (
    check_same_vocabulary,
    gather_experience,
    mini_batches,
    pieces,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def of_task(rewards=lambda prompts, texts: [1.0] * len(texts), **settings):
    return Task.from_functions(list(CHARACTERS[:8]), rewards, max_new_tokens=8, **settings)


def gathered(policy, task, *, temperature=1.0, seed=0):
    return gather_experience(
        policy,
        task,
        prompts=4,
        rollouts_per_prompt=3,
        temperature=temperature,
        generator=seeded(seed),
    )


def test_a_prompts_responses_stand_together_and_get_the_rewards_of_their_texts(policy):
    def rewards(prompts, texts):
        return [10.0 * int(p) + len(t) / 10 for p, t in zip(prompts, texts, strict=True)]

    batch = gathered(policy, of_task(rewards))
    names = [problem.prompt for problem in batch.problems]
    assert names == [name for name in names[::3] for _ in range(3)] and batch.K == 3
    prompt_ids = batch.responses.prompt_ids[:, -1].tolist()
    assert [policy.decode([token]) for token in prompt_ids] == names
    texts, cut = batch.responses.texts, batch.responses.truncated
    expected = torch.tensor(rewards(names, texts)).where(~cut, 0.0)  # a cut one has earned nothing
    torch.testing.assert_close(batch.rewards, expected)
    assert batch.grouped_rewards.shape == (4, 3) and cut.any() and not cut.all()


def test_the_sampling_has_the_temperature_and_the_stop_of_its_caller(policy):
    greedy = gathered(policy, of_task(), temperature=0)
    assert all(len(set(greedy.responses.texts[i : i + 3])) == 1 for i in range(0, 12, 3))
    assert len(set(gathered(policy, of_task()).responses.texts)) > 6
    free, stopped = (gathered(policy, of_task(stop=stop)).responses.texts for stop in (None, "7"))
    assert any("7" in text[:-1] for text in free)
    assert not any("7" in text[:-1] for text in stopped) and any("7" in text for text in stopped)


def test_mini_batches_hold_whole_groups_in_another_order_each_time():
    generator = seeded(0)
    epochs = [list(mini_batches(5, 3, 2, generator=generator)) for _ in range(4)]
    for parts in epochs:
        assert [len(rows) for rows in parts] == [6, 6, 3]
        groups = torch.cat(parts).view(5, 3)
        assert (groups[:, 0] % 3 == 0).all() and (groups - groups[:, :1] == torch.arange(3)).all()
        assert sorted(groups[:, 0].tolist()) == [0, 3, 6, 9, 12]
    orders = {tuple(torch.cat(parts).tolist()) for parts in epochs}
    assert len(orders) > 1  # four equal ones of 120: once in 1.7 million seeds


@pytest.mark.parametrize("micro_tokens", [None, 24, 1000])
def test_pieces_carry_the_row_numbers_of_the_train_batch(policy, micro_tokens):
    batch = mixed_batch(policy)
    rows = torch.tensor([12, 13, 14, 15, 4, 5, 6, 7])
    seen = []
    for numbers, part in pieces(batch.responses, rows, micro_tokens=micro_tokens):
        assert part.texts == [batch.responses.texts[i] for i in numbers.tolist()]
        seen += numbers.tolist()
    assert sorted(seen) == sorted(rows.tolist())


def test_a_vocabulary_can_be_compared_only_where_both_have_a_tokenizer(policy):
    plain = Policy(small_policy(seed=9).model)
    check_same_vocabulary(policy, plain)
    check_same_vocabulary(plain, policy)
