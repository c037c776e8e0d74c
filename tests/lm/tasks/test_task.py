import math

import numpy as np
import pytest
import torch

from rlbook.lm.tasks import Problem, Task
from rlbook.lm.tasks.arithmetic import Arithmetic


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Numbers(Task):
    """Prompts are the numbers below a limit; a response is right if it repeats its prompt."""

    name = "numbers"

    def __init__(self, limit):
        self.limit = limit

    def draw(self, n, generator):
        numbers = torch.randint(0, self.limit, (n,), generator=generator).tolist()
        return [Problem(str(number), str(number)) for number in numbers]

    def score(self, problems, texts):
        return [problem.answer == text for problem, text in zip(problems, texts, strict=True)]


# --- splits and fixed sets -------------------------------------------------------------------


def test_the_splits_never_overlap_and_one_prompt_in_ten_is_held_out():
    task = Numbers(10_000)
    train = {p.prompt for p in task.problems(2_000, seeded())}
    test = {p.prompt for p in task.problems(1_000, seeded(), split="test")}
    assert train and test and not train & test
    everything = [Problem(str(i)) for i in range(10_000)]
    share = sum(task.split_of(problem) == "test" for problem in everything) / 10_000
    assert share == pytest.approx(0.1, abs=0.01)


def test_the_split_is_the_same_in_every_session():
    """Python's own hash of a string differs from session to session; CRC-32 does not."""
    assert _crc32(b"123456789") == 0xCBF43926  # the check value of the published CRC-32
    held_out = [i for i in range(200) if Numbers(200).split_of(Problem(str(i))) == "test"]
    assert held_out == [i for i in range(200) if _crc32(str(i).encode()) % 10 == 0]


def _crc32(data):
    """CRC-32 bit by bit, reflected polynomial 0xEDB88320."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_same_generator_draws_the_same_problems():
    task = Numbers(1_000)
    assert task.problems(50, seeded(3)) == task.problems(50, seeded(3))
    assert task.problems(50, seeded(3)) != task.problems(50, seeded(4))
    assert task.problems(0, seeded()) == []


def test_a_fixed_training_set_is_passed_through_whole():
    task = Numbers(100_000)
    fixed = task.fixed(256, seeded())
    assert len({p.prompt for p in fixed.train_problems}) == 256
    epoch = fixed.problems(256, seeded(1))
    assert sorted(p.prompt for p in epoch) == sorted(p.prompt for p in fixed.train_problems)
    assert epoch != fixed.problems(256, seeded(2))  # shuffled
    twice = fixed.problems(512, seeded(1))
    assert all(twice.count(problem) == 2 for problem in fixed.train_problems)
    assert task.train_problems is None
    test = {p.prompt for p in fixed.problems(1_000, seeded(), split="test")}
    assert not test & {p.prompt for p in fixed.train_problems} and len(test) > 900


def test_a_task_that_is_too_small_says_so():
    with pytest.raises(ValueError, match="only 9 different training prompts, not 20"):
        Numbers(10).fixed(20, seeded())
    tiny = Numbers(1)
    other = {"train": "test", "test": "train"}[tiny.split_of(Problem("0"))]
    with pytest.raises(ValueError, match=f"too few problems in its {other} split"):
        tiny.problems(5, seeded(), split=other)
    with pytest.raises(ValueError, match="split='dev' is not one of 'train', 'test'"):
        tiny.problems(5, seeded(), split="dev")
    with pytest.raises(ValueError, match="n=-1 problems"):
        tiny.problems(-1, seeded())


# --- rewards ---------------------------------------------------------------------------------


def test_rewards_are_float32_and_a_truncated_response_earns_nothing():
    task, problems = Numbers(10), [Problem("1", "1"), Problem("2", "2"), Problem("3", "3")]
    rewards = task.rewards(problems, ["1", "0", "3"])
    assert rewards.dtype == torch.float32 and rewards.tolist() == [1, 0, 1]
    cut = torch.tensor([True, True, False])
    assert task.rewards(problems, ["1", "0", "3"], truncated=cut).tolist() == [0, 0, 1]
    assert task.rewards([], []).shape == (0,)
    with pytest.raises(ValueError, match="3 problems for 2 texts"):
        task.rewards(problems, ["1", "2"])
    with pytest.raises(ValueError, match="truncated has 1 entries for 3 texts"):
        task.rewards(problems, ["1", "2", "3"], truncated=[True])


def own(rewards, **options):
    return Task.from_functions(["a", "bb", "ccc"], rewards, **options)


def three(task):
    return task.rewards([Problem("a"), Problem("bb"), Problem("ccc")], ["x", "yy", ""])


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_a_reward_function_sees_prompts_and_texts(form):
    def rewards(prompts, texts):
        return form([len(p) + 10.0 * len(t) for p, t in zip(prompts, texts, strict=True)])

    task = own(rewards)
    assert three(task).tolist() == [11, 22, 3]


def test_a_reward_may_be_a_bool_an_integer_or_carry_a_gradient():
    assert three(own(lambda prompts, texts: [True, 2, np.float64(0.5)])).tolist() == [1, 2, 0.5]
    grad = three(own(lambda prompts, texts: torch.ones(3, requires_grad=True)))
    assert not grad.requires_grad


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], "returned 2 rewards for 3 texts: return one number per text"),
        (torch.ones(4), "returned 4 rewards for 3 texts"),
        (1.0, "returned float for 3 texts: return a list"),
        (None, "returned NoneType for 3 texts"),
        (torch.tensor(1.0), "returned float for 3 texts"),
        ([1.0, math.nan, 0.0], r"the reward of sample 1 is nan \(text 'yy'\)"),
        (torch.tensor([0.0, 0.0, math.inf]), "the reward of sample 2 is inf"),
        (["good", 0.0, 0.0], "the reward of sample 0 is 'good'"),
        (["1", 0.0, 0.0], "the reward of sample 0 is '1'"),
        ([0.0, None, 0.0], "the reward of sample 1 is None"),
        (torch.ones(3, 1), r"the reward of sample 0 is \[1.0\]"),
    ],
)
def test_a_reward_function_that_returns_something_else(returned, message):
    with pytest.raises(ValueError, match=message) as caught:
        three(own(lambda prompts, texts: returned))
    assert "\n" not in str(caught.value)


# --- your own --------------------------------------------------------------------------------


def test_own_prompts_with_and_without_a_test_split():
    task = own(lambda prompts, texts: [0.0] * len(texts), test_prompts=["d"], max_new_tokens=7)
    assert task.max_new_tokens == 7
    assert {p.prompt for p in task.problems(30, seeded())} == {"a", "bb", "ccc"}
    assert {p.prompt for p in task.problems(2, seeded(), split="test")} == {"d"}
    without = own(lambda prompts, texts: [0.0] * len(texts))
    with pytest.raises(ValueError, match="has no test prompts: pass test_prompts="):
        without.problems(1, seeded(), split="test")


def test_own_prompts_as_token_ids():
    seen = []

    def rewards(prompts, texts):
        seen.extend(prompts)
        return [1.0] * len(texts)

    task = Task.from_functions([[0, 2], torch.tensor([1])], rewards)
    task.rewards(list(task.train_problems), ["", ""])
    assert seen == [(0, 2), (1,)]


def test_own_steps_and_answers():
    def halves(text):
        return [len(text) // 2, len(text)]

    task = own(
        lambda p, t: [0.0] * len(t), step_boundaries=halves, extract_answer=lambda text: text[-1:]
    )
    assert task.step_boundaries("abcd") == [2, 4] and task.extract_answer("abcd") == "d"
    with pytest.raises(ValueError, match=r"returned \[0, 1\] for a text of 1 characters"):
        task.step_boundaries("a")
    plain = own(lambda p, t: [0.0] * len(t))
    assert plain.step_boundaries("abcd") == [4] and plain.extract_answer(" d\n") == "d"
    short = own(lambda p, t: [0.0] * len(t), step_boundaries=lambda text: [1])
    with pytest.raises(ValueError, match="the last of them 3"):
        short.step_boundaries("abc")


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts is empty"),
        ("hello", {}, "prompts is one string"),
        (["a", ""], {}, r"prompts\[1\] is empty"),
        ([[0], []], {}, r"prompts\[1\] is empty"),
        (["a", "b"], {"test_prompts": ["c", "b"]}, "the prompt 'b' is in prompts and in test"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
    ],
)
def test_bad_arguments_of_from_functions(prompts, options, message):
    with pytest.raises(ValueError, match=message):
        Task.from_functions(prompts, lambda p, t: [0.0] * len(t), **options)


def test_rewards_must_be_a_function():
    with pytest.raises(ValueError, match=r"rewards must be a function; it is 1\.0"):
        Task.from_functions(["a"], 1.0)
    with pytest.raises(ValueError, match="rewards is None"):
        Task.from_functions(["a"], None)
    with pytest.raises(ValueError, match="extract_answer must be a function; it is 'last'"):
        Task.from_functions(["a"], len, extract_answer="last")


def test_a_task_of_the_book_may_be_fixed_too():
    task = Arithmetic().fixed(20, seeded())
    pairs = task.demonstrations(40, seeded())
    assert {prompt for prompt, _ in pairs} == {p.prompt for p in task.train_problems}
