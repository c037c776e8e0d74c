"""Random inputs that several chapters' exercises share, in numbers short enough to redo by hand."""

import numpy as np


def random_mdp(rng: np.random.Generator, S: int, A: int) -> tuple[np.ndarray, np.ndarray]:
    """P [S, A, S] in tenths and R [S, A] in halves. Take S ≠ A, so that mixed-up axes show."""
    return random_distributions(rng, S, (S, A)), random_halves(rng, (S, A))


def random_distributions(
    rng: np.random.Generator, outcomes: int, shape: int | tuple[int, ...]
) -> np.ndarray:
    """Probabilities over the last axis, all multiples of 1/10."""
    return rng.multinomial(10, np.full(outcomes, 1.0 / outcomes), size=shape) / 10.0


def random_halves(rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
    """Multiples of 1/2 between -5 and 5."""
    return rng.integers(-10, 11, size=shape) / 2.0
