"""rlbook: a reinforcement-learning textbook you run, and the small package behind it."""

__version__ = "0.1.0"
