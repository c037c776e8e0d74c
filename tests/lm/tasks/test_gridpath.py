import numpy as np
import pytest
import torch

from rlbook.lm.tasks import Problem
from rlbook.lm.tasks.gridpath import GridPath, as_problem, parse
from rlbook.tabular import maps
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.planning import value_iteration

ACROSS = as_problem("open", (4, 0), (0, 4))  # chapter 02's own start and goal, 8 moves apart
ROUND_THE_PIT = as_problem("aima", (2, 3), (0, 3))  # the pit lies between them
TASK = GridPath()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def moved(text, start, goal):
    """A text map with its S and G put elsewhere."""
    symbols = maps.parse_map(text)
    symbols[np.isin(symbols, ["S", "G"])] = "."
    symbols[start], symbols[goal] = "S", "G"
    return "\n".join("".join(row) for row in symbols)


# --- problems --------------------------------------------------------------------------------


def test_prompts_name_map_start_and_goal():
    assert ACROSS == Problem("open 40>04:", "04")
    assert parse("maze 5a>0z:") == ("maze", (5, 10), (0, 35))
    with pytest.raises(ValueError, match="'open 4>04:' is not a grid-path prompt"):
        parse("open 4>04:")


def test_all_problems():
    """25 cells: 25·24 pairs. AIMA's map: 12 cells less a wall and a pit, 10·9 pairs."""
    every = TASK.all_problems()
    assert len(every) == len(set(every)) == 600 + 90
    train, test = TASK.all_problems("train"), TASK.all_problems("test")
    assert set(train) | set(test) == set(every) and not set(train) & set(test)
    assert 40 < len(test) < 100
    drawn = TASK.problems(2_000, seeded())
    assert set(drawn) <= set(train)
    shares = sum(p.prompt.startswith("aima") for p in drawn) / 2_000
    # each map half of the draws (their test shares differ a little): sd 0.011
    assert shares == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("problem", [ACROSS, ROUND_THE_PIT, as_problem("aima", (2, 0), (1, 2))])
def test_the_distance_is_chapter_02s_value(problem):
    """At -1 per move, -V* of the gridworld with this goal; a pit costs more than any detour."""
    name, start, goal = parse(problem.prompt)
    text = {"open": maps.OPEN_5X5, "aima": maps.AIMA_4X3}[name]
    world = GridWorld(moved(text, start, goal), rewards={"P": -100.0})
    V = value_iteration(world.mdp(), gamma=1.0, tol=1e-9).V
    for cell in map(tuple, world.cells.tolist()):
        if world.symbols[cell] != "P":
            assert TASK.distance(problem, cell) == -V[world.state_at(*cell)]
        else:
            assert TASK.distance(problem, cell) == float("inf")
    assert TASK.distance(problem) == -V[world.state_at(*start)]


# --- rewards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "text", "reward"),
    [
        (ACROSS, "UUUURRRR.", 1),
        (ACROSS, "URURURUR.", 1),
        (ACROSS, "LDUUUURRRR.", 1),  # two bumps, right answer from wrong steps
        (ACROSS, "UUUURRR.", 0),  # sound, but stops short of the goal
        (ACROSS, "UUUURRRR", 0),  # does not say that it is there
        (ACROSS, "UUUURRRRU.", 0),  # walks on: the gridworld's episode had ended
        (ACROSS, "UUUURRRR..", 0),
        (ACROSS, "UUUURRxRR.", 0),
        (ACROSS, ".", 0),
        (ACROSS, "", 0),
        (ROUND_THE_PIT, "LUURR.", 0),  # bumps at the end and walks past
        (ROUND_THE_PIT, "LUUR.", 1),
        (ROUND_THE_PIT, "UU.", 0),  # through the pit
    ],
)
def test_rewards_by_hand(problem, text, reward):
    assert TASK.rewards([problem], [text]).tolist() == [reward]


def test_a_walk_is_an_episode_of_the_gridworld():
    """Random walks: the reward is 1 iff the gridworld's episode ends at the goal just then."""
    generator = seeded()
    for problem in (ACROSS, ROUND_THE_PIT, as_problem("aima", (2, 2), (2, 0))):
        name, start, goal = parse(problem.prompt)
        text = {"open": maps.OPEN_5X5, "aima": maps.AIMA_4X3}[name]
        world = GridWorld(moved(text, start, goal))
        for _ in range(150):
            actions = torch.randint(0, 4, (int(torch.randint(1, 9, (1,), generator=generator)),),
                                    generator=generator).tolist()  # fmt: skip
            state, ended = world.reset(seed=0)[0], False
            taken = 0
            while not ended and taken < len(actions):
                state, _, ended, _, _ = world.step(actions[taken])
                taken += 1
            cell = tuple(world.cells[state].tolist())
            won = ended and cell == goal and taken == len(actions)
            walk = "".join("URDL"[action] for action in actions)
            assert TASK.rewards([problem], [walk + "."]).item() == won
            assert TASK.cells(problem, walk)[taken] == cell


def test_moves_may_cost():
    task = GridPath(step_cost=0.1)
    rewards = task.rewards([ACROSS] * 3, ["UUUURRRR.", "LUUUURRRR.", "U."])
    assert rewards.tolist() == pytest.approx([1 - 0.8, 1 - 0.9, 0])


# --- steps -----------------------------------------------------------------------------------


def test_steps_are_moves_and_the_full_stop_belongs_to_the_last():
    assert TASK.step_boundaries("UURR.") == [1, 2, 3, 5]
    assert TASK.step_boundaries("UURR") == [1, 2, 3, 4]
    assert TASK.step_boundaries("U.") == [2]
    assert TASK.step_boundaries(".") == [1] and TASK.step_boundaries("") == [0]
    pairs = GridPath(moves_per_step=2)
    assert pairs.step_boundaries("UURRU.") == [2, 4, 6]
    assert pairs.step_boundaries("UURR.") == [2, 5]


@pytest.mark.parametrize(
    ("problem", "text", "right", "sound"),
    [
        (ACROSS, "UUR.", [True, True, False], [True, True, True]),  # sound, misses the goal
        (ACROSS, "LUDR", [False, True, False, True], [False, True, True, True]),
        (ROUND_THE_PIT, "UU.", [False, False], [False, False]),  # dead after the first
        (ROUND_THE_PIT, "LUUR.", [True] * 4, [True] * 4),
        (ROUND_THE_PIT, "LUURL.", [True] * 4 + [False], [True] * 5),  # past the goal
        (ROUND_THE_PIT, "LxU", [True, False, True], [True, False, True]),
    ],
)
def test_steps_by_hand(problem, text, right, sound):
    assert TASK.steps_right(problem, text) == right
    assert TASK.steps_sound(problem, text) == sound
    assert TASK.judge_steps(problem, text, seeded(), error=0.0) == sound
    assert TASK.judge_steps(problem, text, seeded(), error=1.0) == [not s for s in sound]
    assert len(right) == len(TASK.step_boundaries(text))


def test_two_moves_make_a_step_that_is_as_right_as_its_worst():
    task = GridPath(moves_per_step=2)
    assert task.steps_right(ACROSS, "UULU.") == [True, False]


def test_sound_paths_miss_and_unsound_ones_arrive():
    """Both happen among demonstrations: filtering by process or by outcome keeps other sets."""
    task, counts = GridPath(noise=0.15), {}
    for prompt, text in task.demonstrations(1_500, seeded()):
        problem = Problem(prompt, prompt[-3:-1])
        key = all(task.steps_sound(problem, text)), bool(task.rewards([problem], [text]))
        counts[key] = counts.get(key, 0) + 1
    assert all(counts[key] > 15 for key in [(True, True), (True, False), (False, True)])


# --- demonstrations --------------------------------------------------------------------------


def test_clean_walks_are_shortest_and_of_all_kinds():
    task = GridPath()
    for prompt, text in task.demonstrations(300, seeded(), clean=True):
        problem = Problem(prompt, prompt[-3:-1])
        assert len(text) - 1 == task.distance(problem)
        assert task.rewards([problem], [text]).item() == 1 and all(task.steps_right(problem, text))
        assert task.split_of(problem) == "train"
    assert task.documents(2, seeded())[0].count(":") == 1
    small = GridPath({"open": "..\n.."}).demonstrations(600, seeded(), clean=True)
    assert {text for prompt, text in small if prompt == "open 10>01:"} == {"UR.", "RU."}


def test_demonstrator_accuracy_by_hand():
    task = GridPath(bias=0.7, noise=0.0)
    up, down = as_problem("open", (2, 2), (1, 2)), as_problem("open", (2, 2), (3, 2))
    assert task.demonstrator_accuracy(up) == 1.0
    assert task.demonstrator_accuracy(down) == pytest.approx(0.3)
    far = as_problem("open", (0, 0), (2, 0))  # the first wrong U bumps; still two are needed
    assert task.demonstrator_accuracy(far) == pytest.approx(0.09)
    assert task.demonstrator_accuracy(far, greedy=True) == 0.0
    assert task.demonstrator_accuracy(up, greedy=True) == 1.0
    # one move noticed as random, U R D L from (2, 2), then the way back: at bias 0 never lost
    assert GridPath(bias=0.0, noise=0.5).demonstrator_accuracy(down) == pytest.approx(1.0)


def test_the_biased_write_right_for_left_and_up_for_down():
    pairs = GridPath(bias=1.0, noise=0.0).demonstrations(200, seeded())
    for prompt, text in pairs:
        _, (row, column), (goal_row, goal_column) = parse(prompt)
        if prompt.startswith("open"):
            assert text.count("U") == abs(goal_row - row) and "D" not in text
            assert text.count("R") == abs(goal_column - column) and "L" not in text


def test_demonstrations_are_as_good_as_computed():
    task = GridPath({"aima": maps.AIMA_4X3}, noise=0.1)
    pairs = task.demonstrations(1_500, seeded())
    problems = [Problem(prompt, prompt[-3:-1]) for prompt, _ in pairs]
    exact = {problem: task.demonstrator_accuracy(problem) for problem in set(problems)}
    expected = sum(exact[problem] for problem in problems) / len(problems)
    found = task.rewards(problems, [text for _, text in pairs]).mean().item()
    assert found == pytest.approx(expected, abs=0.065)  # 5 standard errors: 6e-7
    longest = max(len(text) for _, text in pairs)
    assert longest <= task.max_moves + 1 == task.max_new_tokens - 1
    assert pairs == task.demonstrations(1_500, seeded())


def test_the_default_setting_caps_the_imitator():
    for greedy in (False, True):
        problems = TASK.all_problems("test")
        mean = sum(TASK.demonstrator_accuracy(p, greedy=greedy) for p in problems) / len(problems)
        assert 0.25 < mean < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"named_maps": {"Open": "S.G"}}, "the map's name 'Open' must be lower-case"),
        ({"named_maps": {"a": "S#"}}, "the map 'a' has no two cells"),
        ({"named_maps": {"a": "." * 37}}, "at most 36 rows and columns"),
        ({"named_maps": {"a": "S?"}}, r"unknown symbol '\?'"),
        ({"bias": -0.1}, r"bias=-0\.1 is not a probability"),
        ({"moves_per_step": 0}, "moves_per_step=0 must be at least 1"),
        ({"step_cost": 0.2}, "the longest shortest path has 8 moves"),
        ({"step_cost": -0.1}, r"step_cost=-0\.1 must lie in"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GridPath(**arguments)
