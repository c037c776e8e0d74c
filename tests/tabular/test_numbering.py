"""Numbers for observations in parts: back and forth, in numpy's order, and who is refused."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlbook.tabular.numbering import NumberedObservations


class Still(gym.Env):
    """Shows one observation for ever."""

    def __init__(self, space: spaces.Space, shown=None) -> None:
        self.observation_space, self.action_space, self.shown = space, spaces.Discrete(2), shown

    def reset(self, *, seed=None, options=None):
        return self.shown, {}

    def step(self, action):
        return self.shown, 1.5, True, False, {"kept": 1}


TUPLE = spaces.Tuple((spaces.Discrete(3), spaces.Discrete(4, start=-1), spaces.Discrete(2)))
MULTI = spaces.MultiDiscrete([3, 4, 2], start=[0, -1, 0])


@pytest.mark.parametrize("space", [TUPLE, MULTI])
def test_every_observation_has_its_own_number(space):
    env = NumberedObservations(Still(space))
    assert env.observation_space == spaces.Discrete(24)
    assert env.sizes == (3, 4, 2)
    for state in range(24):
        observation = env.observation_of(state)
        # numpy's order of the parts, counted from their lowest values
        shifted = np.array(observation) - [0, -1, 0]
        assert np.ravel_multi_index(tuple(shifted), (3, 4, 2)) == state
        assert env.state_of(observation) == env.state_of(np.array(observation)) == state
        assert {type(part) for part in observation} == {int}


def test_the_agent_sees_the_number():
    env = NumberedObservations(Still(MULTI, np.array([2, 0, 1])))
    # parts counted from 0: (2, 1, 1);  (2 · 4 + 1) · 2 + 1 = 19
    assert env.reset(seed=0) == (19, {})
    assert env.step(0) == (19, 1.5, True, False, {"kept": 1})
    assert type(env.reset()[0]) is int


@pytest.mark.parametrize("observation", [(3, 0, 0), (0, -2, 0), (0, 3, 0), (0, 0, 2)])
def test_an_observation_outside_has_no_number(observation):
    with pytest.raises(ValueError, match="has no number"):
        NumberedObservations(Still(TUPLE)).state_of(observation)


@pytest.mark.parametrize("state", [-1, 24])
def test_a_number_outside_is_no_state(state):
    with pytest.raises(ValueError, match=f"state {state} is not in 0..23"):
        NumberedObservations(Still(TUPLE)).observation_of(state)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0.0, 1.0),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0))),
        spaces.MultiDiscrete([[2, 2], [2, 2]]),
    ],
)
def test_other_spaces_are_refused(space):
    with pytest.raises(ValueError, match="which has no numbering here"):
        NumberedObservations(Still(space))
