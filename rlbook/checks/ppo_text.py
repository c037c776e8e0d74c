"""The exercises of chapter 17: from one reward per response to a loss per token, and PPO whole.

Plain arrays. Batches are [B, T], padded on the right; ``mask`` is True for the policy's tokens, EOS
included, and what stands under the padding is arbitrary. A row holds at least one token. ``states``
and ``tokens`` are numbers, ``table`` logits [S, V]. Answers in 32 bits count (``FLOAT32``).
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.checks.token_mdp import log_softmax, scattered, to_go


def token_rewards(scores, logprobs, ref_logprobs, mask, beta):
    """Rewards [B, T]: -beta (log π - log ref) per token, and the score [B] at the last token."""
    paid = np.where(mask, -beta * (logprobs - ref_logprobs), 0.0)
    paid[np.arange(len(scores)), mask.sum(axis=1) - 1] += scores
    return paid


def token_advantages(rewards, values, mask, lam):
    """GAE's advantages (γ = 1) and the targets of the value network [2, B, T]; 0 under padding."""
    B, T = rewards.shape
    advantages = np.zeros((B, T))
    coming = after = np.zeros(B)  # A and V of what follows; after the last token both are 0
    for t in reversed(range(T)):
        delta = rewards[:, t] + after - values[:, t]
        coming = np.where(mask[:, t], delta + lam * coming, 0.0)
        after = np.where(mask[:, t], values[:, t], 0.0)
        advantages[:, t] = coming
    return np.stack([advantages, np.where(mask, advantages + values, 0.0)])


def whiten_tokens(advantages, mask):
    """Mean 0 and (population) standard deviation 1 over the real tokens of a batch; 0 elsewhere."""
    real = advantages[mask]
    return np.where(mask, (advantages - real.mean()) / (real.std() + 1e-8), 0.0)


def held_value_loss(values, old_values, targets, clip):
    """½ max of two squares, one of them with the value kept within ``clip`` of the old one."""
    held = old_values + np.clip(values - old_values, -clip, clip)
    return 0.5 * np.maximum((values - targets) ** 2, (held - targets) ** 2)


def fixed_gigabytes(parameters, trained, frozen_bytes):
    """Memory of M models before any activation, in 10⁹ bytes.

    parameters, trained [M]: how many, and whether they learn, in float32 and by Adam. Those that
    do not have ``frozen_bytes`` for each weight.
    """
    return float(np.where(trained, 16, frozen_bytes) @ parameters / 1e9)


def follow_reward(table, states, tokens, mask, rewards, beta, clip, rate, updates):
    """The table [S, V] after PPO on all responses of a prompt, each weighted by its probability."""

    def log_policy(logits):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    table, ref = table.copy(), log_policy(table)[states, tokens]
    rows, last = np.arange(len(mask)), mask.sum(axis=1) - 1
    for _ in range(updates):
        old = log_policy(table)[states, tokens]
        drawn = np.exp(np.where(mask, old, 0.0).sum(axis=1))  # how often each is written
        paid = np.where(mask, -beta * (old - ref), 0.0)
        paid[rows, last] += rewards
        to_come = paid[:, ::-1].cumsum(axis=1)[:, ::-1]
        A = to_come - drawn @ to_come[:, 0]
        for _ in range(2):
            log_pi = log_policy(table)
            ratio = np.exp(log_pi[states, tokens] - old)
            free = np.where(A > 0, ratio < 1 + clip, ratio > 1 - clip)
            weight = np.where(mask & free, drawn[:, None] * ratio * A, 0.0)
            pull = np.zeros(table.shape)
            np.add.at(pull, (states, tokens), weight)
            table += rate * (pull - pull.sum(axis=1, keepdims=True) * np.exp(log_pi))
    return table


# --- cases -----------------------------------------------------------------------------------


def _masks(rng, B, T):
    """Responses of 1 to T tokens: one is full, one ends a token earlier."""
    lengths = rng.integers(1, T + 1, size=B)
    lengths[0] = T
    if B > 1:
        lengths[1] = T - 1
    return np.arange(T) < lengths[:, None]


def _reward_cases(rng):
    # x = log 2, 0; β = 1/2. The score 3 at the second token: -½ log 2, 3, and 0 under padding.
    cases = [
        {
            "scores": np.array([3.0]), "logprobs": np.log([[0.5, 0.25, 0.5]]),
            "ref_logprobs": np.log([[0.25, 0.25, 0.125]]),
            "mask": np.array([[True, True, False]]), "beta": 0.5,
        }
    ]  # fmt: skip
    for B, T, beta in ((2, 3, 0.1), (3, 4, 1.0), (4, 5, 0.25), (5, 3, 2.0), (3, 6, 0.5)):
        p = np.log(rng.integers(1, 10, size=(2, B, T)) / 10.0)
        cases.append(
            {
                "scores": random_halves(rng, B) + 0.25, "logprobs": p[0], "ref_logprobs": p[1],
                "mask": _masks(rng, B, T), "beta": beta,
            }
        )  # fmt: skip
    return cases


def _advantage_cases(rng):
    # V = 1, 2; r = 0, 4; λ = 1/2. δ = 0 + 2 - 1 = 1 and 4 + 0 - 2 = 2; A = 1 + ½·2 = 2 and 2;
    # targets 3 and 4. The third cell is padding, with a 9 in it.
    cases = [
        {
            "rewards": np.array([[0.0, 4.0, 9.0]]), "values": np.array([[1.0, 2.0, 9.0]]),
            "mask": np.array([[True, True, False]]), "lam": 0.5,
        }
    ]  # fmt: skip
    for B, T, lam in ((2, 3, 1.0), (3, 4, 0.95), (4, 5, 0.5), (3, 6, 0.0), (5, 4, 0.8)):
        cases.append(
            {
                "rewards": random_halves(rng, (B, T)) + 0.25,
                "values": random_halves(rng, (B, T)) - 0.75,
                "mask": _masks(rng, B, T), "lam": lam,
            }
        )  # fmt: skip
    return cases


def _whitening_cases(rng):
    # Real tokens 1, 3, 5: mean 3, variance 8/3.
    cases = [
        {
            "advantages": np.array([[1.0, 3.0], [5.0, 9.0]]),
            "mask": np.array([[True, True], [True, False]]),
        }
    ]
    for B, T in ((2, 3), (3, 4), (4, 5), (3, 6), (5, 3)):
        advantages = random_halves(rng, (B, T)) + np.arange(B)[:, None] + 0.25
        cases.append({"advantages": advantages, "mask": _masks(rng, B, T)})
    return cases


def _value_cases(rng):
    # Target 2, old 0, clip 1/2. v = 1: held at ½, max(1, 2.25)/2. v = -1: max(9, 6.25)/2. v = 0.2:
    # not held, 3.24/2.
    cases = [
        {
            "values": np.array([1.0, -1.0, 0.2]), "old_values": np.zeros(3),
            "targets": np.full(3, 2.0), "clip": 0.5,
        }
    ]  # fmt: skip
    for n, clip in ((4, 0.2), (6, 0.5), (8, 1.0), (10, 0.1), (7, 2.0)):
        old = random_halves(rng, n)
        moved = old + random_halves(rng, n) + 0.05
        targets = old + np.where(np.arange(n) % 2 == 0, 3.0, -3.0)
        cases.append({"values": moved, "old_values": old, "targets": targets, "clip": clip})
    return cases


def _memory_cases(rng):
    # A billion parameters each, two models trained and two frozen in two bytes: 2·16 + 2·2 = 36.
    rows = [([1000, 1000, 1000, 1000], "1100", 2), ([124, 124, 124, 124], "1100", 4),
            ([124, 124, 355], "100", 2), ([355, 774], "10", 4), ([1558, 124, 774], "110", 2),
            ([124, 774, 124, 774], "0110", 4)]  # fmt: skip
    return [
        {
            "parameters": 1e6 * np.array(millions), "trained": np.array(list(kinds)) == "1",
            "frozen_bytes": frozen_bytes,
        }
        for millions, kinds, frozen_bytes in rows
    ]  # fmt: skip


def _every_text(V, T):
    """Prefix numbers, tokens and mask of all texts of at most T tokens; token 0 ends a text."""
    prefixes, texts = [()], []
    for prefix in prefixes:  # grows while it is read
        for token in range(V):
            text = (*prefix, token)
            (texts if token == 0 or len(text) == T else prefixes).append(text)
    states, tokens = np.zeros((2, len(texts), T), dtype=int)
    for b, text in enumerate(texts):
        tokens[b, : len(text)] = text
        states[b, : len(text)] = [prefixes.index(text[:t]) for t in range(len(text))]
    mask = np.arange(T) < np.array([len(text) for text in texts])[:, None]
    return len(prefixes), states, tokens, mask


def _follow_cases(rng):
    # One choice of two, π = ½, R = 0 and 2, one update, β = 0. A = ∓1: the pull on the tokens is
    # ∓½, and ±½·0 off both; the first epoch adds ∓½·rate. With clip 0.01 the second one is idle:
    # the ratios are past 1 ∓ 0.01.
    cases = [
        {
            "table": np.zeros((1, 2)), "states": np.array([[0], [0]]),
            "tokens": np.array([[0], [1]]), "mask": np.array([[True], [True]]),
            "rewards": np.array([0.0, 2.0]), "beta": 0.0, "clip": 0.01, "rate": 1.0, "updates": 1,
        }
    ]  # fmt: skip
    for V, T, beta, clip, rate, updates in (
        (2, 3, 0.5, 0.2, 1.0, 3), (3, 2, 0.25, 0.1, 2.0, 4), (2, 4, 1.0, 0.2, 1.0, 3),
        (3, 3, 0.5, 0.3, 4.0, 4), (3, 2, 2.0, 0.1, 1.0, 5),
    ):  # fmt: skip
        S, states, tokens, mask = _every_text(V, T)
        rewards = random_halves(rng, len(mask)) + np.arange(len(mask)) % 3
        cases.append(
            {
                "table": random_halves(rng, (S, V)) / 4, "states": states, "tokens": tokens,
                "mask": mask, "rewards": rewards, "beta": beta, "clip": clip, "rate": rate,
                "updates": updates,
            }
        )  # fmt: skip
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _last(mask):
    return np.arange(len(mask)), mask.sum(axis=1) - 1


def _priced(price, *, place=_last, amount=lambda scores, mask: scores):
    """A maker of wrong rewards: another price per token, another place for the score."""

    def answer(scores, logprobs, ref_logprobs, mask, beta):
        paid = np.where(mask, price(logprobs, ref_logprobs, beta), 0.0)
        paid[place(mask)] += amount(scores, mask)
        return paid

    return answer


def _k1(logprobs, ref_logprobs, beta):
    return -beta * (logprobs - ref_logprobs)


def _before_last(mask):
    return np.arange(len(mask)), np.maximum(mask.sum(axis=1) - 2, 0)


def _score_everywhere(scores, logprobs, ref_logprobs, mask, beta):
    return np.where(mask, _k1(logprobs, ref_logprobs, beta) + scores[:, None], 0.0)


def _padding_pays(scores, logprobs, ref_logprobs, mask, beta):
    paid = _k1(logprobs, ref_logprobs, beta)
    paid[_last(mask)] += scores
    return paid


def _last_price_lost(scores, logprobs, ref_logprobs, mask, beta):
    paid = np.where(mask, _k1(logprobs, ref_logprobs, beta), 0.0)
    paid[_last(mask)] = scores
    return paid


def _whole_bill_at_the_end(scores, logprobs, ref_logprobs, mask, beta):
    paid = np.zeros(mask.shape)
    bill = np.where(mask, _k1(logprobs, ref_logprobs, beta), 0.0).sum(axis=1)
    paid[_last(mask)] = scores + bill
    return paid


def _advantages(
    *, end=lambda values: 0.0, leak=False, past=lambda A, values, rewards, mask: A + values
):
    """A maker of wrong advantages: another value of the end, padding that leaks, other targets."""

    def answer(rewards, values, mask, lam):
        B, T = rewards.shape
        A = np.zeros((B, T))
        for b in range(B):
            n = T if leak else int(mask[b].sum())
            coming, after = 0.0, end(values[b, :n])
            for t in reversed(range(n)):
                coming = rewards[b, t] + after - values[b, t] + lam * coming
                A[b, t], after = coming, values[b, t]
        targets = past(A, values, rewards, mask)
        return np.stack([np.where(mask, A, 0.0), np.where(mask, targets, 0.0)])

    return answer


def _later_value_missing(rewards, values, mask, lam):
    A = np.where(mask, rewards - values, 0.0)
    for t in reversed(range(A.shape[1] - 1)):
        A[:, t] += lam * A[:, t + 1] * mask[:, t]
    return np.stack([A, np.where(mask, A + values, 0.0)])


def _not_discounted(rewards, values, mask, lam):
    return token_advantages(rewards, values, mask, 1.0)


def _one_step(rewards, values, mask, lam):
    return token_advantages(rewards, values, mask, 0.0)


def _discounted_by_lam(rewards, values, mask, lam):
    A, (B, T) = np.zeros(rewards.shape), rewards.shape
    coming = after = np.zeros(B)
    for t in reversed(range(T)):
        delta = rewards[:, t] + lam * after - values[:, t]
        coming = np.where(mask[:, t], delta + lam * coming, 0.0)
        after = np.where(mask[:, t], values[:, t], 0.0)
        A[:, t] = coming
    return np.stack([A, np.where(mask, A + values, 0.0)])


def _returns_to_go(A, values, rewards, mask):
    return to_go(np.where(mask, rewards, 0.0))


def _per_row(advantages, mask):
    mean = np.array([row[m].mean() for row, m in zip(advantages, mask, strict=True)])[:, None]
    spread = np.array([row[m].std() for row, m in zip(advantages, mask, strict=True)])[:, None]
    return np.where(mask, (advantages - mean) / (spread + 1e-8), 0.0)


def _bytes(parameters, trained, learning, frozen):
    return float(np.where(trained, learning, frozen) @ parameters / 1e9)


def _following(
    *,
    reference="start",
    sign=1.0,
    column=_last,
    mask_of=lambda tokens, mask: mask,
    come=to_go,
    free=lambda A, ratio, clip: np.where(A > 0, ratio < 1 + clip, ratio > 1 - clip),
    frozen_ratio=False,
    pi_of_old=False,
    baseline=True,
    weigh=True,
):
    """A maker of wrong loops; each argument is one thing that can go wrong."""

    def answer(table, states, tokens, mask, rewards, beta, clip, rate, updates):
        table, m = table.copy(), mask_of(tokens, mask)
        ref = log_softmax(table)[states, tokens]
        kept = ref
        for _ in range(updates):
            before = log_softmax(table)
            old = before[states, tokens]
            if reference == "now":
                ref = old
            elif reference == "one behind":
                ref, kept = kept, old
            drawn = np.exp(np.where(mask, old, 0.0).sum(axis=1))
            paid = np.where(m, -sign * beta * (old - ref), 0.0)
            paid[column(m)] += rewards
            to_come = come(np.where(m, paid, 0.0))
            A = to_come - (drawn @ to_come[:, 0] if baseline else 0.0)
            for _ in range(2):
                log_pi = log_softmax(table)
                ratio = np.exp(log_pi[states, tokens] - old)
                share = drawn[:, None] if weigh else 1 / len(drawn)
                weight = share * (1.0 if frozen_ratio else ratio) * A
                weight = np.where(m & free(A, ratio, clip), weight, 0.0)
                pi = np.exp(before if pi_of_old else log_pi)
                table = table + rate * scattered(pi, states, tokens, weight)
        return table

    return answer


EXERCISES: dict[str, Exercise] = {
    "token_rewards": Exercise(
        reference=token_rewards,
        cases=_reward_cases,
        hint="First the price, everywhere; then 0 under the padding; then the score. A response of "
        "n tokens has its last one in column n - 1.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the score in the last column",
                _priced(_k1, place=lambda mask: (np.arange(len(mask)), -1)),
                "Short responses are padded: their score stands where nobody chose anything.",
            ),
            WrongAnswer(
                "drift paid for, not charged",
                _priced(lambda p, ref, beta: beta * (p - ref)),
                "A token that the policy likes better than the reference does should cost.",
            ),
            WrongAnswer(
                "the score at the token before the last",
                _priced(_k1, place=_before_last),
                "The EOS is a choice of the policy, and the score is read there.",
            ),
            WrongAnswer(
                "the score at every token",
                _score_everywhere,
                "Long responses earn it many times here. It is given once.",
            ),
            WrongAnswer(
                "a price on padding",
                _padding_pays,
                "Where nobody chose a token, nobody pays.",
            ),
            WrongAnswer(
                "no price",
                _priced(lambda p, ref, beta: 0.0 * p),
                "How far a token went from the reference does not show in these rewards.",
            ),
            WrongAnswer(
                "the price without beta",
                _priced(lambda p, ref, beta: ref - p),
                "A nat costs beta units of reward.",
            ),
            WrongAnswer(
                "the score in place of the last price",
                _last_price_lost,
                "The last token pays for its own log-ratio as well.",
            ),
            WrongAnswer(
                "the whole price at the last token",
                _whole_bill_at_the_end,
                "The sum is right. But each token is to pay for its own log-ratio.",
            ),
            WrongAnswer(
                "the price of the reference's surprise alone",
                _priced(lambda p, ref, beta: beta * ref),
                "The price is of a difference: what the policy says less what the reference says.",
            ),
        ),
    ),
    "token_advantages": Exercise(
        reference=token_advantages,
        cases=_advantage_cases,
        hint="Go from the last column to the first and carry two numbers per row, the advantage "
        "and the value of what follows. Both are 0 after the last real token.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "padding that leaks in",
                _advantages(leak=True),
                "What stands behind the last token is arbitrary. Where must the carrying stop?",
            ),
            WrongAnswer(
                "an end that keeps its value",
                _advantages(end=lambda values: values[-1]),
                "After the last token nothing more can be earned. What is the value of that?",
            ),
            WrongAnswer(
                "the value of the next token left out",
                _later_value_missing,
                "A step also earns the value of the state that it leads to.",
            ),
            WrongAnswer(
                "λ = 1 whatever is given",
                _not_discounted,
                "The advantage that follows is carried on with the factor lam.",
            ),
            WrongAnswer(
                "λ = 0 whatever is given",
                _one_step,
                "These are the errors of single steps. What follows counts too, with lam.",
            ),
            WrongAnswer(
                "the targets without the values",
                _advantages(past=lambda A, values, rewards, mask: A),
                "An advantage is a difference from the value. What should the value have been?",
            ),
            WrongAnswer(
                "λ taken for γ",
                _discounted_by_lam,
                "The value that follows enters the error whole: γ is 1. λ weighs the later errors.",
            ),
            WrongAnswer(
                "targets with λ = 1",
                _advantages(past=_returns_to_go),
                "These are the sums of what was earned. Take the same λ for both: A + V.",
            ),
            WrongAnswer(
                "targets of whitened advantages",
                _advantages(past=lambda A, values, rewards, mask: whiten_tokens(A, mask) + values),
                "A whitened advantage is no longer in units of reward. The value network needs "
                "these units.",
            ),
        ),
    ),
    "whiten_tokens": Exercise(
        reference=whiten_tokens,
        cases=_whitening_cases,
        hint="Take the real tokens out as one long list first. Its mean and its spread are wanted.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "padding counted",
                lambda advantages, mask: np.where(
                    mask, (advantages - advantages.mean()) / (advantages.std() + 1e-8), 0.0
                ),
                "The mean is that of all cells. Which of them hold a choice?",
            ),
            WrongAnswer(
                "padding counted as zeros",
                lambda advantages, mask: np.where(
                    mask,
                    (advantages - (advantages * mask).mean()) / ((advantages * mask).std() + 1e-8),
                    0.0,
                ),
                "Zeros under the padding are numbers too: they move the mean and the spread.",
            ),
            WrongAnswer(
                "divided by n - 1",
                lambda advantages, mask: np.where(
                    mask,
                    (advantages - advantages[mask].mean()) / (advantages[mask].std(ddof=1) + 1e-8),
                    0.0,
                ),
                "The spread here is the root of the mean square: divide by n.",
            ),
            WrongAnswer(
                "each response by itself",
                _per_row,
                "So a good response and a bad one come out alike: what they differ by is their "
                "mean. Whiten over the batch.",
            ),
            WrongAnswer(
                "the mean left in",
                lambda advantages, mask: np.where(
                    mask, advantages / (advantages[mask].std() + 1e-8), 0.0
                ),
                "The spread is right. What should the mean be?",
            ),
            WrongAnswer(
                "the spread left in",
                lambda advantages, mask: np.where(mask, advantages - advantages[mask].mean(), 0.0),
                "The mean is right. By what must it still be divided?",
            ),
            WrongAnswer(
                "divided by the variance",
                lambda advantages, mask: np.where(
                    mask,
                    (advantages - advantages[mask].mean()) / (advantages[mask].var() + 1e-8),
                    0.0,
                ),
                "Twice the advantages should come out the same. Do they?",
            ),
            WrongAnswer(
                "padding moved from 0",
                lambda advantages, mask: (
                    (np.where(mask, advantages, 0.0) - advantages[mask].mean())
                    / (advantages[mask].std() + 1e-8)
                ),
                "The real tokens are right. Put the 0 under the padding last.",
            ),
        ),
    ),
    "held_value_loss": Exercise(
        reference=held_value_loss,
        cases=_value_cases,
        hint="Two values: the one that the network gives now, and that one cut to within clip of "
        "the old value. Each has its squared error; the larger one counts.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the smaller of the two",
                lambda values, old_values, targets, clip: (
                    0.5
                    * np.minimum(
                        (values - targets) ** 2,
                        (old_values + np.clip(values - old_values, -clip, clip) - targets) ** 2,
                    )
                ),
                "A value that ran away from its target would feel nothing here. Pessimism takes "
                "the larger loss.",
            ),
            WrongAnswer(
                "the held value alone",
                lambda values, old_values, targets, clip: (
                    0.5 * (old_values + np.clip(values - old_values, -clip, clip) - targets) ** 2
                ),
                "A value that has gone the wrong way is left there. There are two losses.",
            ),
            WrongAnswer(
                "no clip",
                lambda values, old_values, targets, clip: 0.5 * (values - targets) ** 2,
                "This is the plain squared loss. Where does the old value come in?",
            ),
            WrongAnswer(
                "the value clipped around 0",
                lambda values, old_values, targets, clip: (
                    0.5
                    * np.maximum(
                        (values - targets) ** 2, (np.clip(values, -clip, clip) - targets) ** 2
                    )
                ),
                "It is the change since the samples were drawn that is to be cut.",
            ),
            WrongAnswer(
                "the target clipped",
                lambda values, old_values, targets, clip: (
                    0.5 * (values - old_values - np.clip(targets - old_values, -clip, clip)) ** 2
                ),
                "The target stays as it is; the new value is what is held.",
            ),
            WrongAnswer(
                "without the half",
                lambda values, old_values, targets, clip: (
                    2 * held_value_loss(values, old_values, targets, clip)
                ),
                "The squares of this book carry a factor ½, so that the slope is the error.",
            ),
            WrongAnswer(
                "a ratio's clip",
                lambda values, old_values, targets, clip: (
                    0.5
                    * np.maximum(
                        (values - targets) ** 2,
                        (
                            old_values
                            * np.clip(
                                values / np.where(old_values == 0, 1.0, old_values),
                                1 - clip,
                                1 + clip,
                            )
                            - targets
                        )
                        ** 2,
                    )
                ),
                "Values may be 0 or negative: here the clip is of a difference, in units of "
                "reward.",
            ),
        ),
    ),
    "fixed_gigabytes": Exercise(
        reference=fixed_gigabytes,
        cases=_memory_cases,
        hint="Per parameter of a model that learns: the weight, its gradient, and two running "
        "means of Adam, four bytes each. A frozen model has its weights alone.",
        wrong_answers=(
            WrongAnswer(
                "three numbers for each weight",
                lambda parameters, trained, frozen_bytes: _bytes(
                    parameters, trained, 12, frozen_bytes
                ),
                "The weight, its gradient, and two means of Adam, of the gradient and of its "
                "square: that makes four.",
            ),
            WrongAnswer(
                "no optimiser",
                lambda parameters, trained, frozen_bytes: _bytes(
                    parameters, trained, 8, frozen_bytes
                ),
                "Weights and gradients are there. What does Adam remember?",
            ),
            WrongAnswer(
                "weights alone",
                lambda parameters, trained, frozen_bytes: _bytes(
                    parameters, trained, 4, frozen_bytes
                ),
                "That is enough for generating. What else does a step of Adam need?",
            ),
            WrongAnswer(
                "an optimiser for the frozen models",
                lambda parameters, trained, frozen_bytes: _bytes(parameters, trained, 16, 16),
                "A frozen model has no gradient and nothing to remember.",
            ),
            WrongAnswer(
                "the frozen models forgotten",
                lambda parameters, trained, frozen_bytes: _bytes(parameters, trained, 16, 0),
                "The reference and the reward model lie in memory too.",
            ),
            WrongAnswer(
                "trained and frozen exchanged",
                lambda parameters, trained, frozen_bytes: _bytes(
                    parameters, ~trained, 16, frozen_bytes
                ),
                "Which of the models have an optimiser?",
            ),
            WrongAnswer(
                "gibibytes",
                lambda parameters, trained, frozen_bytes: (
                    fixed_gigabytes(parameters, trained, frozen_bytes) * 1e9 / 2**30
                ),
                "Divided by 2³⁰. A gigabyte is 10⁹ bytes.",
            ),
            WrongAnswer(
                "bits",
                lambda parameters, trained, frozen_bytes: (
                    8 * fixed_gigabytes(parameters, trained, frozen_bytes)
                ),
                "A float of 32 bits has four bytes, and bytes are asked for.",
            ),
        ),
    ),
    "follow_reward": Exercise(
        reference=follow_reward,
        cases=_follow_cases,
        hint="β has no influence at all, and the log's KL is 0 in every line. What would have to "
        "be true of the reference? Look at what `table = ref = ...` makes, and at `table +=`.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the loop as it was",
                _following(reference="now"),
                "Its reference moves with the policy, so nothing ever costs anything. When is the "
                "reference to be taken?",
            ),
            WrongAnswer(
                "a reference one update behind",
                _following(reference="one behind"),
                "It is renewed in every update: the price holds back each step, and the drift adds "
                "up. The reference is where training began, to the end.",
            ),
            WrongAnswer(
                "drift paid for, not charged",
                _following(sign=-1.0),
                "The policy runs away from the reference, and earns by it. Which sign has a price?",
            ),
            WrongAnswer(
                "the reward in the last column",
                _following(column=lambda mask: (np.arange(len(mask)), -1)),
                "A response that ends early never meets its reward.",
            ),
            WrongAnswer(
                "a mask by the padding token",
                _following(
                    mask_of=lambda tokens, mask: tokens != 0,
                    column=lambda m: (np.arange(len(m)), np.maximum(m.sum(axis=1) - 1, 0)),
                ),
                "The token 0 is padding and EOS. The EOS is a choice, and it has gone.",
            ),
            WrongAnswer(
                "each token paid for itself alone",
                _following(come=lambda paid: paid),
                "A token also answers for what comes after it: the reward stands at the last one.",
            ),
            WrongAnswer(
                "the same clip on both sides",
                _following(
                    free=lambda A, ratio, clip: (ratio < 1 + clip) & (ratio > 1 - clip),
                ),
                "A token with A > 0 whose ratio has fallen should be pulled back up. Which side is "
                "cut depends on the sign of A.",
            ),
            WrongAnswer(
                "no clip",
                _following(free=lambda A, ratio, clip: np.ones(A.shape, dtype=bool)),
                "The second epoch goes as far as it likes.",
            ),
            WrongAnswer(
                "a gradient without the ratio",
                _following(frozen_ratio=True),
                "The slope of r·A is r·A times the slope of log π. In the second epoch r is not 1.",
            ),
            WrongAnswer(
                "the first epoch's probabilities in the second",
                _following(pi_of_old=True),
                "The policy has moved within the update. Its probabilities have to be computed "
                "again.",
            ),
            WrongAnswer(
                "no baseline",
                _following(baseline=False),
                "Without the mean taken away the signs of A, and with them the clip, are others.",
            ),
            WrongAnswer(
                "every response with the same weight",
                _following(weigh=False),
                "A policy meets its responses as often as it writes them.",
            ),
        ),
    ),
}
