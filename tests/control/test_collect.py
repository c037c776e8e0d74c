"""Rollouts and episodes: every number against a script, draws against the softmax."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from oracles import chi_square_p
from scripted import Scripted, Ticking
from worlds import Rows, actor_critic, uniform, vector

from rlbook.control.collect import check_envs, episodes, evaluate, make_envs, rollouts

NAN = float("nan")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two_scripts(**options):
    """Environment 0: states 0 1 2 (terminated), then 3 4 5 (truncated) for ever.
    Environment 1: states 6 7 6 7 0 (terminated) for ever."""
    first = [(0, 1.0, 1, ""), (1, 2.0, 2, "terminated")]
    second = [(3, 3.0, 4, ""), (4, 4.0, 5, "truncated")]
    long = [(6, 10.0, 7, ""), (7, 20.0, 6, ""), (6, 30.0, 7, ""), (7, 40.0, 0, "terminated")]
    return vector(lambda: Scripted(first, second, S=8), lambda: Scripted(long, S=8), **options)


def states(one_hot):
    assert (one_hot.sum(-1) == 1).all()
    return one_hot.argmax(-1).tolist()


# --- rollouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [True, False])
def test_a_rollout_holds_what_the_script_says_and_episodes_run_on_across_yields(copy):
    envs = two_scripts(copy=copy)
    stream = rollouts(envs, uniform(envs), steps=3, generator=seeded())
    one, two = next(stream), next(stream)

    assert states(one.observations) == [[0, 1, 3], [6, 7, 6]]
    assert states(one.next_observations) == [[1, 2, 4], [7, 6, 7]]  # 2: the true end, before reset
    assert one.rewards.tolist() == [[1, 2, 3], [10, 20, 30]]
    assert one.terminated.tolist() == [[False, True, False], [False] * 3]
    assert not one.truncated.any()
    assert one.returns == (3.0,)

    assert states(two.observations) == [[4, 3, 4], [7, 6, 7]]
    assert states(two.next_observations) == [[5, 4, 5], [0, 7, 6]]
    assert two.truncated.tolist() == [[True, False, True], [False] * 3]
    assert two.terminated.tolist() == [[False] * 3, [True, False, False]]
    assert two.ended.tolist() == [[True, False, True], [True, False, False]]
    assert two.returns == (7.0, 100.0, 7.0)  # 3+4; 10+20+30+40 over both yields; 3+4
    assert one.mask.all() and two.mask.all()
    for x in (one.observations, one.rewards, one.next_observations):
        assert x.dtype == torch.float32


def test_the_agents_actions_are_those_recorded():
    envs = vector(*[lambda: Ticking(limit=3, A=4)] * 2)
    made, step = [], envs.step

    def spy(actions):
        made.append(actions.tolist())
        return step(actions)

    envs.step = spy
    rollout = next(rollouts(envs, uniform(envs), steps=20, generator=seeded()))
    assert rollout.actions.T.tolist() == made
    assert len(set(rollout.actions.flatten().tolist())) == 4


def test_an_end_that_is_both_counts_as_terminated():
    envs = vector(lambda: Rows((1.0, [1.0], True, True)))
    rollout = next(rollouts(envs, uniform(envs), steps=2, generator=seeded()))
    assert rollout.terminated.all() and not rollout.truncated.any()


def test_the_same_seed_gives_the_same_rollouts_and_the_global_generator_is_left_alone():
    def collect(seed):
        envs = make_envs("CartPole-v1", 3)
        stream = rollouts(envs, actor_critic(envs).policy, steps=40, generator=seeded(seed))
        next(stream)
        return next(stream)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = collect(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.random.seed(1)
    two, other = collect(5), collect(6)
    assert torch.equal(one.observations, two.observations)
    assert torch.equal(one.actions, two.actions)
    assert not torch.equal(one.observations, other.observations)
    assert one.terminated.any()  # resets happened, so they are part of what was the same


def test_actions_follow_the_softmax_and_do_not_depend_on_the_last_ones():
    """Fails by chance once in 10⁵ seeds: two tests at 5·10⁻⁶ each."""
    envs = vector(*[lambda: Ticking(limit=7, A=4)] * 40)
    logits = torch.tensor([0.0, 1.0, -2.0, -torch.inf])
    rollout = next(rollouts(envs, lambda x: logits.expand(40, 4), steps=150, generator=seeded()))
    pi = logits.softmax(0).numpy()
    actions = rollout.actions.numpy()
    counts = np.bincount(actions.ravel(), minlength=4)
    assert chi_square_p(counts[None], pi[None]) > 5e-6
    pairs = np.bincount((4 * actions[:, :-1:2] + actions[:, 1::2]).ravel(), minlength=16)
    assert chi_square_p(pairs[None], np.outer(pi, pi).reshape(1, 16)) > 5e-6
    wrong = np.array([0.25, 0.6, 0.15, 0.0])  # what such a test can tell apart
    assert chi_square_p(counts[None], wrong[None]) < 5e-6


# --- episodes --------------------------------------------------------------------------------


def test_episodes_are_whole_and_the_mask_ends_with_each():
    envs = two_scripts()
    batch = episodes(envs, uniform(envs), generator=seeded())
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert states(batch.observations)[1] == [6, 7, 6, 7]
    assert states(batch.observations)[0][:2] == [0, 1]
    assert states(batch.next_observations)[0][1] == 2
    assert (batch.ended & batch.mask).tolist() == [
        [False, True, False, False],
        [False] * 3 + [True],
    ]
    assert batch.returns == (3.0, 100.0)  # in the order of the environments


def test_an_episode_beyond_max_steps_counts_as_truncated():
    envs = two_scripts()
    batch = episodes(envs, uniform(envs), generator=seeded(), max_steps=3)
    assert batch.actions.shape == (2, 3)
    assert batch.truncated[1].tolist() == [False, False, True]
    assert not batch.terminated[1].any()
    assert batch.terminated[0, 1] and not batch.truncated[0, 1]
    assert batch.returns == (3.0, 60.0)


def test_long_episodes_fit():
    envs = vector(lambda: Ticking(limit=300), lambda: Ticking(limit=128))
    batch = episodes(envs, uniform(envs), generator=seeded())
    assert batch.mask.sum(1).tolist() == [300, 128]
    assert batch.actions.shape == (2, 300)
    assert batch.truncated[0, 299] and batch.truncated[1, 127]
    assert batch.returns == (300.0, 128.0)


def test_greedy_takes_the_likeliest_action():
    envs = vector(lambda: Ticking(limit=50, A=3))

    def nearly_even(observations):
        return torch.tensor([[0.0, 0.1, 0.0]])

    greedy = episodes(envs, nearly_even, generator=seeded(), greedy=True)
    drawn = episodes(envs, nearly_even, generator=seeded())
    assert set(greedy.actions[0].tolist()) == {1}
    assert set(drawn.actions[0].tolist()) == {0, 1, 2}


def test_evaluation_does_not_favour_short_episodes():
    """The first four episodes to end would be the short one's: mean 1, not 5.5."""
    short = [(0, 1.0, 0, "terminated")]
    long = [(0, 1.0, 0, "")] * 9 + [(0, 1.0, 0, "terminated")]
    envs = vector(lambda: Scripted(short, S=1), lambda: Scripted(long, S=1))
    returns = evaluate(envs, uniform(envs), episodes_per_env=2, generator=seeded())
    assert returns.tolist() == [1.0, 10.0, 1.0, 10.0]


# --- refusals --------------------------------------------------------------------------------


def refusal(envs, policy=None, **options):
    with pytest.raises(ValueError) as caught:
        policy = policy or uniform(envs)
        next(rollouts(envs, policy, generator=seeded(), **({"steps": 8} | options)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_environments_that_reset_by_themselves_are_refused(mode):
    message = refusal(vector(Ticking, autoreset_mode=mode))
    assert str(mode) in message and "make_envs" in message
    assert make_envs("CartPole-v1", 2).metadata["autoreset_mode"] == AutoresetMode.DISABLED


def test_a_single_environment_is_refused():
    with pytest.raises(ValueError, match="this is TimeLimit: make_envs") as caught:
        check_envs(gym.make("CartPole-v1"))
    assert "\n" not in str(caught.value)


def test_a_reward_that_is_not_finite_is_named():
    fine, bad = (1.0, [0.0], False, False), (NAN, [0.0], False, False)
    envs = vector(lambda: Rows(fine), lambda: Rows(fine, fine, bad))
    assert refusal(envs).startswith("environment 1 gave reward nan at step 2 ")


def test_an_observation_that_is_not_finite_is_named():
    fine, bad = (1.0, [0.0, 0.0], False, False), (1.0, [0.0, np.inf], False, False)
    envs = vector(lambda: Rows(fine), lambda: Rows(fine), lambda: Rows(fine, bad))
    assert refusal(envs).startswith("environment 2 gave next observation [ 0. inf] at step 1 ")


def test_spaces_that_networks_cannot_use_are_refused():
    message = refusal(make_envs("Pendulum-v1", 1))
    assert "action space is Box" in message and "wrap" in message
    message = refusal(make_envs("FrozenLake-v1", 1))
    assert "observation space is Discrete(16)" in message and "FlattenObservation" in message

    class Matrix(Ticking):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(0.0, 1.0, (2, 2))

    assert "(2, 2)" in refusal(vector(Matrix))

    class FromOne(Ticking):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Discrete(2, start=1)

    assert "start=1" in refusal(vector(FromOne))


def test_a_policy_with_a_wrong_number_of_logits_is_refused():
    envs = vector(Ticking, Ticking)
    message = refusal(envs, policy=lambda observations: torch.zeros(2, 1))
    assert "(2, 1)" in message and "(2, 2)" in message


def test_no_steps_are_refused():
    envs = vector(Ticking)
    assert "steps=0" in refusal(envs, steps=0)
    with pytest.raises(ValueError, match="max_steps=0"):
        episodes(envs, uniform(envs), generator=seeded(), max_steps=0)
