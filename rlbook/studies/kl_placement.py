"""KL placements: the same β in the reward and in the loss leads to different policies.

Part one, `games`, where the optimum is known. A ``TabularLM`` writes T tokens; a few responses,
drawn by the seed, earn 1 and the others 0; the reference is a random table. REINFORCE with a
leave-one-out baseline maximises reward minus β·KL, with the price put in three places:

    k1 in the reward    -β k1 of this token and of all that follow, within its advantage
    k2 in the loss      + β k2 of each token, beside the policy loss
    k3 in the loss      + β k3 of each token

`distance` is KL(π‖π*) in nats at the updates `x`, averaged over the games of a seed, for each β; it
is (max - what π has) / β. `limit` is the distance of the policy at which the expected gradient of
that arm is 0 (``stationary``); `to its limit` is KL(π‖that policy) after the last update; `paid`
and `kl` are the exact expected reward and KL(π‖reference) there.

Part two, `arithmetic`: ``ppo`` on the shipped model from the same start, k1 in the reward or k3 in
the loss (the two that it has). The advantages are not whitened, since that would change the price
of the second arm alone. `arithmetic reward` and `arithmetic kl` (nats per response) are means over
the samples of the last updates.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.functional.group_advantages import rloo_advantages
from rlbook.functional.kl import kl_k2, kl_k3, per_token_kl_reward
from rlbook.functional.masked import aggregate
from rlbook.functional.policy_losses import reinforce_loss
from rlbook.functional.returns import discounted_returns
from rlbook.lm.exact import (
    enumerated_logprobs,
    expected_reward,
    matching,
    prefix_values,
    sequence_kl,
    sequence_logprobs,
)
from rlbook.lm.policy import load_policy
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.posttrain.ppo import PPOConfig, ppo

SEEDS = 5
SETTINGS: dict[str, Any] = {
    "arms": ["k1 in the reward", "k2 in the loss", "k3 in the loss"],
    "games": {"per_seed": 6, "vocabulary": 3, "tokens": 4, "good": 8, "scatter": 1.0},
    "betas": [0.5, 0.2],
    "training": {"responses": 32, "learning_rate": 0.05},
    "x": [20 * k for k in range(31)],
    "arithmetic": {
        "updates": 50,
        "train_batch_size": 32,
        "rollouts_per_prompt": 4,
        "mini_batch_size": 16,
        "learning_rate": 5e-4,
        "beta": 0.3,
        "normalise": False,
    },
    "last": 10,
}


def run(seed: int) -> dict[str, dict[str, Any]]:
    """Both parts with one seed."""
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    for beta in SETTINGS["betas"]:
        for arm in SETTINGS["arms"]:
            for measure, value in play(seed, beta, arm).items():
                results.setdefault(f"{measure}, β {beta:g}", {})[arm] = value
    for arm, place in (("k1 in the reward", "reward"), ("k3 in the loss", "loss")):
        for measure, value in arithmetic(seed, place).items():
            results.setdefault(f"arithmetic {measure}", {})[arm] = value
    return results


def play(seed: int, beta: float, arm: str) -> dict[str, Any]:
    """Means over a seed's games of what this arm reaches."""
    count = SETTINGS["games"]["per_seed"]
    found = [_one_game(seed * count + i, beta, arm) for i in range(count)]
    distances = torch.tensor([row.pop("distance") for row in found]).mean(dim=0)
    means = {name: sum(row[name] for row in found) / count for name in found[0]}
    return {"distance": distances.tolist(), **means}


def _one_game(number: int, beta: float, arm: str) -> dict[str, Any]:
    ref, rewards = game(number)
    best = stationary(ref, rewards, beta, "k1 in the reward")
    limit = stationary(ref, rewards, beta, arm)
    distances, model = learn(ref, rewards, beta, arm, number, best)
    return {
        "distance": distances,
        "limit": sequence_kl(limit, best).item(),
        "to its limit": sequence_kl(model, limit).item(),
        "paid": expected_reward(model, rewards).item(),
        "kl": sequence_kl(model, ref).item(),
    }


def game(number: int) -> tuple[TabularLM, Float[Tensor, " M"]]:
    """A reference, and the reward of every response: 1 for a few of them."""
    rules, generator = SETTINGS["games"], torch.Generator().manual_seed(number)
    model = TabularLM([[0]], vocab_size=rules["vocabulary"], max_new_tokens=rules["tokens"])
    table = torch.randn(model.table.shape, generator=generator, dtype=torch.float64)
    rewards = torch.zeros(len(model.space.responses), dtype=torch.float64)
    rewards[torch.randperm(len(rewards), generator=generator)[: rules["good"]]] = 1.0
    return model.like(rules["scatter"] * table), rewards


def stationary(ref: TabularLM, rewards: Float[Tensor, " B"], beta: float, arm: str) -> TabularLM:
    """The policy at which the expected gradient of an arm is 0, from the last token to the first.

        k1 in the reward    π ∝ ref · exp(R / β) over whole responses: the optimum
        k2 in the loss      π(a|s) ∝ ref(a|s) · exp(Q(s, a) / β)
        k3 in the loss      π(a|s) = β ref(a|s) / (λ(s) - Q(s, a)),  λ(s) such that they sum to 1

    Q is the expected reward under π itself, without the price of the tokens to come: with the
    price in the loss each token pays for itself alone.
    """
    log_ref = torch.log_softmax(ref.table.detach(), dim=1)
    if arm == "k1 in the reward":
        return matching(ref, sequence_logprobs(ref).detach() + rewards / beta)
    model = ref.like()
    for _ in range(ref.space.max_new_tokens):  # each round settles one more token from the end
        Q = prefix_values(model, rewards)[1].detach()
        if arm == "k2 in the loss":
            model = ref.like(log_ref + Q / beta)
        else:
            model = ref.like((log_ref - _gap(Q, log_ref.exp(), beta).log()).detach())
    return model


def _gap(Q: Float[Tensor, "S V"], ref: Float[Tensor, "S V"], beta: float) -> Float[Tensor, "S V"]:
    """λ - Q with β Σ_a ref / (λ - Q) = 1, by bisection: λ lies between max Q and max Q + β."""
    highest = Q.amax(dim=1, keepdim=True)
    low, high = torch.zeros_like(highest), torch.full_like(highest, beta)
    for _ in range(100):
        middle = (low + high) / 2
        above = (beta * ref / (middle + highest - Q)).sum(dim=1, keepdim=True) > 1.0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return high + highest - Q


def learn(
    ref: TabularLM,
    rewards: Float[Tensor, " M"],
    beta: float,
    arm: str,
    seed: int,
    best: TabularLM,
) -> tuple[list[float], TabularLM]:
    """KL(π‖best) at the updates x, and the last policy."""
    model, generator = ref.like(), torch.Generator().manual_seed(1_000 + seed)
    rate, last = SETTINGS["training"]["learning_rate"], SETTINGS["x"][-1]
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    log_ref, distances = enumerated_logprobs(ref).detach(), []
    mask = ref.space.paths(ref.table.device).mask
    for update in range(last + 1):
        logprobs = enumerated_logprobs(model)
        if update in SETTINGS["x"]:
            distances.append(sequence_kl(model, best).item())
        if update == last:
            break
        drawn = torch.multinomial(
            logprobs.detach().sum(dim=1).exp(),
            SETTINGS["training"]["responses"],
            replacement=True,
            generator=generator,
        )
        loss = penalised_loss(
            logprobs[drawn], log_ref[drawn], rewards[drawn], mask[drawn], beta=beta, arm=arm
        )
        optimiser.param_groups[0]["lr"] = rate * (1 - update / last)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return distances, model


def penalised_loss(
    logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"],
    rewards: Float[Tensor, " B"],
    mask: Tensor,
    *,
    beta: float,
    arm: str,
) -> Float[Tensor, ""]:
    """The policy loss with the price of KL in its place: a sum over tokens, a mean over rows."""
    if arm == "k1 in the reward":
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        paid = per_token_kl_reward(rewards, logprobs, ref_logprobs, mask, beta=beta)
        to_go = discounted_returns(paid, gamma=1.0, terminated=last, ended=last)
        advantages = rloo_advantages(torch.where(mask, to_go, 0.0).T).T
        losses = reinforce_loss(logprobs, advantages)
    else:
        price = {"k2 in the loss": kl_k2, "k3 in the loss": kl_k3}[arm]
        advantages = rloo_advantages(rewards[None])[0][:, None].expand_as(logprobs)
        losses = reinforce_loss(logprobs, advantages) + beta * price(logprobs, ref_logprobs)
    return aggregate(losses, mask, "fixed-length", length=1)


def arithmetic(seed: int, place: str) -> dict[str, float]:
    """Reward and KL per response of the last updates of ``ppo``."""
    policy, ref = load_policy("arithmetic-sft"), load_policy("arithmetic-sft")
    config = PPOConfig(kl_in=place, seed=seed, **SETTINGS["arithmetic"])
    rows = [report.metrics for report in ppo(policy, Arithmetic(), config, ref=ref)]
    rows = rows[-SETTINGS["last"] :]
    return {
        "reward": sum(row["reward"] for row in rows) / len(rows),
        "kl": sum(row["kl_ref"] for row in rows) / len(rows),
    }
