"""Networks on CartPole against stable-baselines3: the same environments, settings and seeds.

    python tests/benchmarks/control.py --json [--seeds 0 1 2 3 4]

Both sides step the same `gymnasium.make("CartPole-v1")`, B copies in one process, with networks
of the same sizes, the same optimiser and the same number of gradient steps on minibatches of the
same size. One thread for torch on both sides.

Speed. Environment steps per second of learning: collecting and updating, construction and
evaluation excluded. The sides alternate for several rounds after a warm-up; medians count. PPO is
measured with two settings, many epochs over small rollouts and few epochs over large ones; the
ratio that counts is their geometric mean.

Learning. PPO with the first setting and a constant learning rate, for each seed until its greedy
policy reaches a mean return of 475 over 100 evaluation episodes (checked every 5,120 steps, clock
stopped meanwhile), at most 100,000 steps. Both sides are judged by the same evaluation: the
environments, the seeds and the code that counts the returns are ours. From the same rollout both
make the same update (ppo_update.py), so what differs is what was drawn on the way.
"""

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from rlbook.control.a2c import A2CConfig, a2c
from rlbook.control.collect import evaluate, make_envs
from rlbook.control.dqn import DQNConfig, dqn
from rlbook.control.networks import ActorCritic, Network, sizes
from rlbook.control.ppo import PPOConfig, ppo

ID, B = "CartPole-v1", 8
SOLVED, LIMIT, CHECK_EVERY = 475.0, 100_000, 5_120
ROUNDS = 5
SPEED_STEPS = 10_240

PPO_SETTINGS = {
    "20 epochs x 1 minibatch of 256": {"rollout_steps": 32, "epochs": 20, "minibatches": 1},
    "4 epochs x 4 minibatches of 256": {"rollout_steps": 128, "epochs": 4, "minibatches": 4},
}
GAMMA, LAM, RATE = 0.98, 0.8, 1e-3


# --- one learner a side: a function that learns for so many more steps ---

Learner = Callable[[int], None]
Greedy = Callable[[torch.Tensor], torch.Tensor]


def our_ppo(seed: int, rollout_steps: int, epochs: int, minibatches: int) -> tuple[Learner, Greedy]:
    envs = make_envs(ID, B)
    network = ActorCritic(*sizes(envs), seed=seed)
    config = PPOConfig(
        total_steps=10**9, rollout_steps=rollout_steps, epochs=epochs, minibatches=minibatches,
        gamma=GAMMA, lam=LAM, learning_rate=RATE, anneal=False, entropy_weight=0.0,
    )  # fmt: skip
    return _advance(ppo(envs, network, config, seed=seed)), network.policy


def their_ppo(
    seed: int, rollout_steps: int, epochs: int, minibatches: int
) -> tuple[Learner, Greedy]:
    from stable_baselines3 import PPO

    model = PPO(
        "MlpPolicy", _their_envs(seed), n_steps=rollout_steps, n_epochs=epochs,
        batch_size=B * rollout_steps // minibatches, gamma=GAMMA, gae_lambda=LAM,
        learning_rate=RATE, ent_coef=0.0, seed=seed, device="cpu",
    )  # fmt: skip
    return _continue(model), lambda x: model.policy.get_distribution(x).distribution.logits


def our_a2c(seed: int) -> tuple[Learner, Greedy]:
    envs = make_envs(ID, B)
    network = ActorCritic(*sizes(envs), seed=seed)
    config = A2CConfig(total_steps=10**9, rollout_steps=16, learning_rate=RATE)
    return _advance(a2c(envs, network, config, seed=seed)), network.policy


def their_a2c(seed: int) -> tuple[Learner, Greedy]:
    from stable_baselines3 import A2C

    model = A2C(
        "MlpPolicy", _their_envs(seed), n_steps=16, learning_rate=RATE, ent_coef=0.01,
        use_rms_prop=False, seed=seed, device="cpu",
    )  # fmt: skip
    return _continue(model), lambda x: model.policy.get_distribution(x).distribution.logits


def our_dqn(seed: int) -> tuple[Learner, Greedy]:
    envs = make_envs(ID, B)
    shape, actions = sizes(envs)
    generator = torch.Generator().manual_seed(seed)
    network = Network(
        shape, actions, generator=generator, hidden=(256, 256), activation=nn.ReLU,
        orthogonal=False,
    )  # fmt: skip
    config = DQNConfig(
        total_steps=10**9, rollout_steps=32, gradient_steps=128, batch_size=64, gamma=GAMMA,
        learning_rate=RATE, target_period=128, learning_starts=256,
    )  # fmt: skip
    return _advance(dqn(envs, network, config, seed=seed)), network


def their_dqn(seed: int) -> tuple[Learner, Greedy]:
    from stable_baselines3 import DQN

    model = DQN(
        "MlpPolicy", _their_envs(seed), train_freq=32, gradient_steps=128, batch_size=64,
        gamma=GAMMA, learning_rate=RATE, target_update_interval=256, learning_starts=0,
        buffer_size=50_000, exploration_fraction=1e-5, seed=seed, device="cpu",
        policy_kwargs={"net_arch": [256, 256]},
    )  # fmt: skip
    return _continue(model), model.q_net


def _their_envs(seed: int) -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(ID, n_envs=B, seed=seed)


def _advance(reports: Iterator[Any]) -> Learner:
    done = 0

    def learn(steps: int) -> None:
        nonlocal done
        target = done + steps
        while done < target:
            done = next(reports).samples

    return learn


def _continue(model: Any) -> Learner:
    def learn(steps: int) -> None:
        model.learn(steps, reset_num_timesteps=False)

    return learn


# --- measuring ---


def speeds(make_ours: Callable, make_theirs: Callable, rounds: int) -> dict[str, Any]:
    """Median steps per second of both sides, the rounds alternating."""
    learners = {"ours": make_ours(0)[0], "sb3": make_theirs(0)[0]}
    measured: dict[str, list[float]] = {name: [] for name in learners}
    for learn in learners.values():
        learn(2_048)
    for _ in range(rounds):
        for name, learn in learners.items():
            start = time.perf_counter()
            learn(SPEED_STEPS)
            measured[name].append(SPEED_STEPS / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in measured.items()}
    return medians | {"ratio": medians["ours"] / medians["sb3"]}


def learn_to(make: Callable, seed: int, **setting: int) -> dict[str, Any]:
    """Seconds of learning until the greedy policy's mean return is 475; None if never."""
    learn, greedy = make(seed, **setting)
    seconds, steps, mean = 0.0, 0, 0.0
    while steps < LIMIT:
        start = time.perf_counter()
        learn(CHECK_EVERY)
        seconds += time.perf_counter() - start
        steps += CHECK_EVERY
        with torch.no_grad():
            generator = torch.Generator().manual_seed(10_000 + seed)
            mean = float(evaluate(make_envs(ID, 100), greedy, generator=generator).mean())
        if mean >= SOLVED:
            return {"seconds": seconds, "steps": steps, "mean_return": mean}
    return {"seconds": None, "steps": steps, "mean_return": mean}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peer's advice about other settings
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        sys.exit("stable-baselines3 is missing: make bench")

    print(f"{'steps per second':<38}{'ours':>10}{'sb3':>10}{'ratio':>8}")
    details: dict[str, Any] = {}
    for name, setting in PPO_SETTINGS.items():
        details[f"ppo, {name}"] = speeds(
            lambda seed, s=setting: our_ppo(seed, **s),
            lambda seed, s=setting: their_ppo(seed, **s),
            arguments.rounds,
        )
        _print_speed(f"ppo, {name}", details)
    for name, ours, theirs in (("a2c", our_a2c, their_a2c), ("dqn", our_dqn, their_dqn)):
        details[name] = speeds(ours, theirs, arguments.rounds)
        _print_speed(name, details)

    setting = next(iter(PPO_SETTINGS.values()))
    reached: dict[str, list[dict[str, Any]]] = {"ours": [], "sb3": []}
    print(f"\n{'PPO to 475, constant rate':<38}{'seconds':>10}{'steps':>10}{'return':>8}")
    for seed in arguments.seeds:
        for side, make in (("ours", our_ppo), ("sb3", their_ppo)):
            row = learn_to(make, seed, **setting)
            reached[side].append(row)
            seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
            label = f"{side}, seed {seed}"
            print(f"{label:<38}{seconds:>10}{row['steps']:>10}{row['mean_return']:>8.1f}")

    ppo_ratios = [details[f"ppo, {name}"]["ratio"] for name in PPO_SETTINGS]
    result = {
        "ppo_steps_per_second_vs_sb3": math.exp(np.mean(np.log(ppo_ratios))),
        "a2c_steps_per_second_vs_sb3": details["a2c"]["ratio"],
        "dqn_steps_per_second_vs_sb3": details["dqn"]["ratio"],
        "ppo_seconds_to_475": [row["seconds"] for row in reached["ours"]],
        "sb3_ppo_seconds_to_475": [row["seconds"] for row in reached["sb3"]],
        "seeds": arguments.seeds,
        "speeds": details,
        "learning": reached,
    }
    print(f"\nppo_steps_per_second_vs_sb3: {result['ppo_steps_per_second_vs_sb3']:.2f}")
    if arguments.json:
        print(json.dumps(result))


def _print_speed(name: str, details: dict[str, Any]) -> None:
    row = details[name]
    print(f"{name:<38}{row['ours']:>10.0f}{row['sb3']:>10.0f}{row['ratio']:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
