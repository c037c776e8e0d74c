"""Part II: networks as value and policy. Torch and gymnasium."""
