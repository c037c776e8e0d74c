"""Small policies for the tests of rlbook.posttrain."""

import pytest
import torch
from small_policies import small_policy

from rlbook.lm.policy import Policy


@pytest.fixture
def policy() -> Policy:
    """A small GPT-2 in float32."""
    return small_policy()


@pytest.fixture
def exact_policy() -> Policy:
    """The same in float64."""
    return small_policy(dtype=torch.float64)
