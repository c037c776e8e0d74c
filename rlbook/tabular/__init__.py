"""Part I of the book: exact and tabular reinforcement learning, in numpy (never torch)."""
