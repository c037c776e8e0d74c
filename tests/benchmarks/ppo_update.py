"""One update of PPO and one of stable-baselines3, from the same weights and the same rollout.

    python tests/benchmarks/ppo_update.py

If the two learners are the same algorithm, the weights must be the same afterwards, but for
rounding: 32 steps of 8 CartPoles that are cut after 20 steps (so that there are ends, cuts, and
episodes that run on), 20 epochs over one minibatch, the settings of control.py. One difference is
known: the peer whitens advantages with the sample variance (n - 1), we with that of the population.
Turning whitening off on both sides leaves rounding alone.

Prints the largest difference of a weight, beside the largest change that the update made.
"""

import copy
import sys
import warnings

import numpy as np
import torch

from rlbook.control.collect import Rollout, make_envs, rollouts
from rlbook.control.networks import ActorCritic, sizes
from rlbook.control.ppo import PPOConfig, ppo

B, T, EPOCHS, GAMMA, LAM, RATE = 8, 32, 20, 0.98, 0.8, 1e-3
NAMES = {
    "mlp_extractor.policy_net": "actor.layers",
    "mlp_extractor.value_net": "critic.layers",
    "action_net": "actor.layers.4",
    "value_net": "critic.layers.4",
}


def compared(seed: int, whiten: bool) -> tuple[float, float, Rollout]:
    """The largest difference between the two networks, the largest change, and the rollout."""
    envs = make_envs("CartPole-v1", B, max_episode_steps=20)
    ours = ActorCritic(*sizes(envs), seed=seed)
    before = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(seed)
    rollout = next(rollouts(envs, before.policy, steps=T, generator=generator))
    config = PPOConfig(
        total_steps=B * T, rollout_steps=T, epochs=EPOCHS, minibatches=1, gamma=GAMMA, lam=LAM,
        learning_rate=RATE, anneal=False, entropy_weight=0.0,
        normalise="minibatch" if whiten else "none",
    )  # fmt: skip
    next(ppo(envs, ours, config, seed=seed))  # the same seed: the same rollout
    theirs = their_update(before, rollout, whiten)
    mine, start = ours.state_dict(), before.state_dict()
    apart = max((mine[name] - theirs[name]).abs().max().item() for name in mine)
    moved = max((mine[name] - start[name]).abs().max().item() for name in mine)
    return apart, moved, rollout


def their_update(network: ActorCritic, rollout: Rollout, whiten: bool) -> dict[str, torch.Tensor]:
    """The weights after the peer's update, under our names."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", n_envs=B), n_steps=T, n_epochs=EPOCHS,
        batch_size=B * T, gamma=GAMMA, gae_lambda=LAM, learning_rate=RATE, ent_coef=0.0,
        normalize_advantage=whiten, device="cpu",
    )  # fmt: skip
    model.set_logger(configure(None, []))
    policy, weights = model.policy, network.state_dict()
    policy.load_state_dict({name: weights[_our_name(name)] for name in policy.state_dict()})
    starts = np.zeros(B, np.float32)
    for t in range(T):
        observations, actions = rollout.observations[:, t], rollout.actions[:, t]
        with torch.no_grad():
            values, logprobs, _ = policy.evaluate_actions(observations, actions)
            future = policy.predict_values(rollout.next_observations[:, t]).flatten()
        # as the peer's collector does it: the value of what was cut off goes into the reward
        rewards = rollout.rewards[:, t] + GAMMA * future * rollout.truncated[:, t]
        model.rollout_buffer.add(
            observations.numpy(),
            actions[:, None].numpy(),
            rewards.numpy(),
            starts,
            values,
            logprobs,
        )
        starts = rollout.ended[:, t].numpy().astype(np.float32)
    model.rollout_buffer.compute_returns_and_advantage(future, starts)
    model.train()
    return {_our_name(name): value for name, value in policy.state_dict().items()}


def _our_name(theirs: str) -> str:
    prefix = next(name for name in NAMES if theirs.startswith(name))
    return NAMES[prefix] + theirs.removeprefix(prefix)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peer's advice about other settings
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        sys.exit("stable-baselines3 is missing: make bench")
    for whiten in (True, False):
        for seed in range(3):
            apart, moved, rollout = compared(seed, whiten)
            ends = f"{int(rollout.terminated.sum())} ends, {int(rollout.truncated.sum())} cuts"
            print(
                f"whitening {whiten!s:5}  seed {seed}  {ends:16}"
                f"  apart {apart:.1e}  moved {moved:.1e}"
            )


if __name__ == "__main__":
    main()
