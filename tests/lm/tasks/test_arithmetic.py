import itertools
import time

import pytest
import torch

from rlbook.lm.tasks import Problem
from rlbook.lm.tasks.arithmetic import Arithmetic, parse_chain, step_table

CHAIN = Problem("3+5-4*9=", "6")  # 8, then 4, then 36


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def from_left(prompt):
    """The value of a prompt by Python's own arithmetic, one operator at a time."""
    value = int(prompt[0])
    for i in range(1, len(prompt) - 1, 2):
        value = eval(f"{value}{prompt[i : i + 2]}") % 10
    return value


# --- problems --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_problems_are_chains_with_their_value(split):
    problems = Arithmetic((1, 5)).problems(300, seeded(), split=split)
    for problem in problems:
        assert problem.answer == str(from_left(problem.prompt))
        assert 1 <= len(parse_chain(problem.prompt)[1]) <= 5
    assert len({len(p.prompt) for p in problems}) == 5
    assert {p.prompt[1] for p in problems} == set("+-*")


def test_a_thousand_problems_are_drawn_at_once():
    task = Arithmetic()
    task.problems(10, seeded())
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        task.problems(1_000, seeded())
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_settings():
    assert {len(p.prompt) for p in Arithmetic.horizon(16).problems(20, seeded())} == {34}
    assert Arithmetic.horizon(8).operators == "+-+-+-+*"
    stars = sum(p.prompt.count("*") for p in Arithmetic.horizon(8).problems(2_000, seeded()))
    # 16,000 operators, one in eight: standard deviation 42; beyond 5 of them: 6e-7
    assert stars == pytest.approx(2_000, abs=210)
    assert set(Arithmetic(operators="+").problems(5, seeded())[0].prompt) <= set("0123456789+=")
    for task in (Arithmetic(), Arithmetic.harder(), Arithmetic(form="terse"), Arithmetic((16, 16))):
        longest = max(len(text) for _, text in task.demonstrations(200, seeded()))
        assert longest + 1 <= task.max_new_tokens  # EOS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": (0, 2)}, r"steps=\(0, 2\) must be a pair"),
        ({"steps": (3, 2)}, r"steps=\(3, 2\) must be a pair"),
        ({"steps": (2, 17)}, r"steps=\(2, 17\)"),
        ({"operators": "+/"}, r"operators='\+/' must be made of"),
        ({"operators": ""}, "operators=''"),
        ({"bias": 1.5}, r"bias=1\.5 is not a probability"),
        ({"noise": float("nan")}, "noise=nan is not a probability"),
        ({"form": "prose"}, "form='prose' is not one of 'written', 'terse', 'answer'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**arguments)


def test_bad_horizon_prompt_and_how():
    with pytest.raises(ValueError, match="steps=2: a horizon is 3 to 16"):
        Arithmetic.horizon(2)
    with pytest.raises(ValueError, match="'3\\+' is not a chain"):
        parse_chain("3+")
    with pytest.raises(ValueError, match="how='best'"):
        Arithmetic().demonstrator_accuracy([CHAIN], how="best")


# --- rewards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("3+5=8;8-4=4;4*9=6.", 1),
        ("3+5=8;8-4=4;4*9=3.", 0),  # * taken for +
        ("3+5=1;1+1=6.", 1),  # wrong working, right answer: the reward cannot tell
        ("8;4;6.", 1),
        ("6.", 1),
        ("3+5=8;8-4=4;4*9=6", 0),  # no full stop
        ("3+5=8;8-4=4;4*9=6;", 0),
        ("3+5=8;8-4=4;4*9=6..", 0),
        ("3+5=8;8-4=4;4*9=6.6", 0),
        ("3+5=8;8-4=4;4*9=6.\n", 0),
        ("4*9=36.", 0),  # modulo 10
        ("4*9= 6.", 0),
        ("=6.6.", 0),
        (".", 0),
        ("", 0),
    ],
)
def test_reward_by_hand(text, reward):
    assert Arithmetic().rewards([CHAIN], [text]).tolist() == [reward]


def test_answers_for_a_vote():
    task = Arithmetic()
    assert task.extract_answer("3+5=8;8-4=4;4*9=6.") == task.extract_answer("6.") == "6"
    assert task.extract_answer("3+5=8;") == ""


def test_steps_end_after_each_semicolon():
    task = Arithmetic()
    assert task.step_boundaries("3+5=8;8-4=4;4*9=6.") == [6, 12, 18]
    assert task.step_boundaries("3+5=8;8-") == [6, 8]
    assert task.step_boundaries("3+5=8;") == [6]
    assert task.step_boundaries("") == [0]


# --- steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "right", "sound"),
    [
        ("3+5=8;8-4=4;4*9=6.", [True, True, True], [True, True, True]),
        ("3+5=8;8-4=4;4*9=3.", [True, True, False], [True, True, False]),
        ("3+5=7;7-4=3;3*9=7.", [False, True, True], [False, True, True]),  # an error carried on
        ("3+5=8;9-4=5;5*9=5.", [True, False, True], [True, True, True]),  # miscopied: sound
        ("3+5=8;8*9=2.", [True, False], [True, True]),  # a step left out
        ("3+5=8;8-4=4;4*9=6;6+0=6.", [True, True, False, False], [True] * 4),
        ("3+5=8;8-4=4;4*9=6", [True, True, False], [True, True, False]),
        # after what is no step, the next must go on from the last value that was written
        ("3+5=8;8+-4=4;4*9=6.", [True, False, False], [True, False, True]),
        ("8;4;6.", [True, True, True], [True, True, True]),
        ("8;4;3.", [True, True, False], [True, True, True]),  # nothing to check in "3."
        ("6.", [True], [True]),
        ("3.", [False], [True]),
        ("", [False], [False]),
    ],
)
def test_steps_by_hand(text, right, sound):
    task = Arithmetic()
    found = task.steps_right(CHAIN, text)
    assert found == right
    assert task.steps_sound(CHAIN, text) == sound
    assert len(found) == len(task.step_boundaries(text))


def test_right_steps_give_the_right_answer_but_not_the_other_way_round():
    task, generator = Arithmetic(noise=0.1), seeded()
    by_chance = 0
    for prompt, text in task.demonstrations(2_000, generator):
        problem = Problem(prompt, str(from_left(prompt)))
        right = task.steps_right(problem, text)
        reward = float(task.rewards([problem], [text]))
        assert reward == 1 or not all(right)
        by_chance += reward == 1 and not all(right)
    assert by_chance > 50


def test_a_later_times_zero_wipes_an_error_out():
    task, problem = Arithmetic(), Problem("2*3+1*0=", "0")
    text = "2*3=5;5+1=6;6*0=0."
    assert task.rewards([problem], [text]).item() == 1
    assert task.steps_right(problem, text) == [False, True, True]


def test_the_judge_errs_as_often_as_it_is_told():
    task, text = Arithmetic(), "3+5=8;8-4=4;4*9=3."
    assert task.judge_steps(CHAIN, text, seeded(), error=0.0) == [True, True, False]
    assert task.judge_steps(CHAIN, text, seeded(), error=1.0) == [False, False, True]
    generator, wrong = seeded(1), 0
    for _ in range(1_000):
        opinions = task.judge_steps(CHAIN, text, generator, error=0.2)
        wrong += sum(a != b for a, b in zip(opinions, [True, True, False], strict=True))
    # binomial(3000, 0.2): standard deviation 21.9; beyond 5 of them with probability 6e-7
    assert wrong == pytest.approx(600, abs=110)


# --- demonstrators ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["written", "terse", "answer"])
def test_clean_text_is_right_in_every_step(form):
    task = Arithmetic((1, 4), form=form)
    for prompt, text in task.demonstrations(300, seeded(), clean=True):
        problem = Problem(prompt, str(from_left(prompt)))
        assert task.rewards([problem], [text]).item() == 1
        assert all(task.steps_right(problem, text))
    document = task.documents(1, seeded())[0]
    assert document.startswith(parse_chain_text(document)) and document.endswith(".")


def parse_chain_text(document):
    prompt = document.partition("=")[0] + "="
    parse_chain(prompt)
    return prompt


def test_clean_text_written_out():
    task = Arithmetic()
    pairs = dict(task.demonstrations(3_000, seeded(), clean=True))
    prompt = next(p for p in pairs if len(p) == 6)
    a, first, b, second, c, _ = prompt
    middle = eval(a + first + b) % 10
    end = eval(f"{middle}{second}{c}") % 10
    assert pairs[prompt] == f"{a}{first}{b}={middle};{middle}{second}{c}={end}."


def test_demonstrations_are_of_training_problems_and_repeat_with_the_seed():
    task = Arithmetic()
    pairs = task.demonstrations(500, seeded(5))
    assert all(task.split_of(Problem(prompt)) == "train" for prompt, _ in pairs)
    assert pairs == task.demonstrations(500, seeded(5))


def test_only_times_is_taken_for_plus():
    task = Arithmetic(bias=1.0, noise=0.0)
    for prompt, text in task.demonstrations(300, seeded()):
        as_they_see_it = prompt.replace("*", "+")
        assert task.extract_answer(text) == str(from_left(as_they_see_it))


def naive_accuracy(task, problem, value=None, i=0):
    """Probability of the right final digit, by walking through all digits a step may give."""
    first, chain = parse_chain(problem.prompt)
    value = first if value is None else value
    if i == len(chain):
        return float(str(value) == problem.answer)
    symbol, digit = chain[i]
    right = eval(f"{value}{symbol}{digit}") % 10
    share = task.bias if symbol == "*" else 0.0
    total = 0.0
    for result in range(10):
        p = (1 - task.noise) * ((1 - share) * (result == right))
        p += (1 - task.noise) * share * (result == (value + digit) % 10) + task.noise / 10
        total += p * naive_accuracy(task, problem, result, i + 1)
    return total


def test_exact_accuracy_by_hand():
    """2*3 is 6, taken for 5: right in 0.3. 2*2 is 4 either way."""
    task = Arithmetic((1, 2), noise=0.0)
    problems = [Problem("2*3=", "6"), Problem("2*2=", "4"), Problem("2*3*4=", "4")]
    # 2*3*4: right-right 6*4=4; right-wrong 6+4=0; wrong-right 5*4=0; wrong-wrong 5+4=9
    expected = [0.3, 1.0, 0.09]
    assert task.demonstrator_accuracy(problems).tolist() == pytest.approx(expected, abs=1e-12)
    assert task.demonstrator_accuracy(problems, how="greedy").tolist() == [0, 1, 0]
    majority = task.demonstrator_accuracy(problems, how="majority")
    assert majority.tolist() == [0, 1, 0]  # 9: 0.49, 0: 0.42, 4: 0.09


def test_exact_accuracy_equals_a_walk_over_all_responses():
    task = Arithmetic((1, 3), bias=0.6, noise=0.2)
    problems = task.problems(4, seeded())
    expected = [naive_accuracy(task, problem) for problem in problems]
    found = task.demonstrator_accuracy(problems)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    probabilities = task.answer_probabilities(problems)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("greedy", [False, True])
def test_expected_accuracy_is_the_mean_over_all_prompts(greedy):
    task = Arithmetic((1, 2), operators="+*", bias=0.7, noise=0.1)
    how = "greedy" if greedy else "sampled"
    means = []
    for length in (1, 2):
        prompts = [
            "".join(map(str, [row[0], *itertools.chain(*zip(row[1::2], row[2::2], strict=True))]))
            + "="
            for row in itertools.product(*([range(10)] + [list("+*"), range(10)] * length))
        ]
        problems = [Problem(prompt, str(from_left(prompt))) for prompt in prompts]
        means.append(task.demonstrator_accuracy(problems, how=how).mean().item())
    assert task.expected_accuracy(greedy=greedy) == pytest.approx(sum(means) / 2, abs=1e-12)


def test_demonstrations_are_as_good_as_computed():
    task = Arithmetic()
    pairs = task.demonstrations(4_000, seeded())
    problems = [Problem(prompt, str(from_left(prompt))) for prompt, _ in pairs]
    found = task.rewards(problems, [text for _, text in pairs]).mean().item()
    # standard error at most 0.5/√4000 = 0.0079; 5 of them: 6e-7
    assert found == pytest.approx(task.demonstrator_accuracy(problems).mean().item(), abs=0.04)


def test_the_default_setting_caps_the_imitator_and_the_harder_one_leaves_room():
    easy, hard = Arithmetic(), Arithmetic.harder()
    assert 0.25 < easy.expected_accuracy(greedy=True) < easy.expected_accuracy() < 0.6
    problems = easy.problems(1_000, seeded(), split="test")
    voted = easy.demonstrator_accuracy(problems, how="majority").mean()
    assert 0.25 < voted < 0.6
    chances = hard.demonstrator_accuracy(hard.problems(1_000, seeded(), split="test"))
    assert chances.mean() < 0.2  # pass@1
    assert (1 - (1 - chances) ** 64).mean() > 0.9  # pass@64


def test_step_table_by_hand():
    table = step_table(0.1, 0.7)  # [operator, digit, value, result]; * is the third operator
    assert table[2, 9, 4, 6].item() == pytest.approx(0.9 * 0.3 + 0.01)
    assert table[2, 9, 4, 3].item() == pytest.approx(0.9 * 0.7 + 0.01)
    assert table[1, 9, 4, 5].item() == pytest.approx(0.9 + 0.01)
    assert table.sum(-1).allclose(torch.ones((), dtype=torch.float64))
