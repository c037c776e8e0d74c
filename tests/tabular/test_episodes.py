"""Episodes and their returns."""

import gymnasium as gym
import numpy as np
import pytest
from oracles import policy_values

from rlbook.tabular.episodes import discounted_return, sample_episode
from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import deterministic_policy, uniform_policy


def test_returns_by_hand():
    assert discounted_return([], gamma=0.9) == 0.0
    assert discounted_return([5.0], gamma=0.5) == 5.0
    # 1 + 0.5 * 2 + 0.25 * 4 = 3
    assert discounted_return([1.0, 2.0, 4.0], gamma=0.5) == 3.0
    assert discounted_return(np.array([1.0, 2.0, 4.0]), gamma=1.0) == 7.0
    assert discounted_return([1.0, 2.0, 4.0], gamma=0.0) == 1.0


def test_returns_agree_with_the_sum():
    rewards = np.random.default_rng(0).normal(size=200)
    expected = sum(0.97**t * reward for t, reward in enumerate(rewards))
    assert discounted_return(rewards, gamma=0.97) == pytest.approx(expected, abs=1e-12)


def test_an_episode_by_hand():
    env = GridWorld("S..G", step_reward=-1.0, rewards={"G": 5.0})
    right = deterministic_policy(np.array([1, 1, 1, 1]), 4)
    episode = sample_episode(env, right, generator=np.random.default_rng(0))
    assert episode.states.tolist() == [0, 1, 2, 3]
    assert episode.actions.tolist() == [1, 1, 1]
    assert episode.rewards.tolist() == [-1.0, -1.0, 4.0]
    assert (episode.terminated, episode.truncated, len(episode)) == (True, False, 3)


def test_a_step_limit_truncates():
    env = GridWorld("S..G")
    left = deterministic_policy(np.array([3, 3, 3, 3]), 4)
    episode = sample_episode(env, left, generator=np.random.default_rng(0), max_steps=7)
    assert (episode.terminated, episode.truncated, len(episode)) == (False, True, 7)
    assert episode.states.tolist() == [0] * 8


def test_a_goal_reached_with_the_last_action_allowed_terminates():
    right = deterministic_policy(np.array([1, 1, 1, 1]), 4)
    episode = sample_episode(
        GridWorld("S..G"), right, generator=np.random.default_rng(0), max_steps=3
    )
    assert (episode.terminated, episode.truncated) == (True, False)


def test_the_environments_own_time_limit_truncates():
    env = gym.make("rlbook.tabular.gridworld:rlbook/GridWorld-v0", map="S..G", max_episode_steps=4)
    left = deterministic_policy(np.array([3, 3, 3, 3]), 4)
    episode = sample_episode(env, left, generator=np.random.default_rng(0))
    assert (episode.terminated, episode.truncated, len(episode)) == (False, True, 4)


def test_the_generator_decides_the_episode():
    env = GridWorld(slip=0.3)
    policy = uniform_policy(env.mdp())
    first, again, other = (
        sample_episode(env, policy, generator=np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert first.states.tolist() == again.states.tolist() != other.states.tolist()
    assert first.actions.tolist() == again.actions.tolist()


def test_actions_are_drawn_from_the_policy():
    """10,000 draws of actions with probabilities 0.2, 0, 0.5 and 0.3. Each share is within 0.035 by
    Hoeffding's bound, but for a probability of 3 * 2 exp(-24.5) < 2e-10."""
    env = GridWorld(".")
    policy = np.array([[0.2, 0.0, 0.5, 0.3]])
    episode = sample_episode(env, policy, generator=np.random.default_rng(0), max_steps=10_000)
    shares = np.bincount(episode.actions, minlength=4) / len(episode)
    assert shares[1] == 0.0
    np.testing.assert_allclose(shares, policy[0], atol=0.035)


def test_mean_return_is_the_value():
    """500 episodes: the mean misses by more than 6 standard errors with probability 2e-9. What
    the limit of 60 steps cuts off is worth less than 10 * 0.9^60 < 0.02."""
    env = GridWorld("..G\n.#.\nS..", slip=0.2)
    mdp = env.mdp()
    policy = np.tile([0.4, 0.3, 0.2, 0.1], (mdp.S, 1))
    generator = np.random.default_rng(0)
    returns = [
        discounted_return(
            sample_episode(env, policy, generator=generator, max_steps=60).rewards, gamma=0.9
        )
        for _ in range(500)
    ]
    start = int(mdp.start.argmax())
    allowed = 6 * np.std(returns) / np.sqrt(len(returns)) + 0.02
    assert abs(np.mean(returns) - policy_values(mdp, policy, 0.9)[start]) < allowed < 0.6
