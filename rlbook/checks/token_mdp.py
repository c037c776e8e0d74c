"""The exercises of chapter 12: text as a decision process, and its exact policy gradient.

Plain arrays. A prefix is a tuple of token numbers, () being the empty one; states are prefixes in
the order of a list, S of them, and number S is the end. Batches of responses are [B, T], padded
with the EOS, as GPT-2's are. Answers in 32 bits count (``FLOAT32``).
"""

from itertools import product

import numpy as np

from rlbook.checks.cases import random_distributions, random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def token_transitions(prefixes, tokens, eos, limit):
    """Where each token leads from each prefix: numbers [S, V] of prefixes, or S for the end."""
    number = {prefix: s for s, prefix in enumerate(prefixes)}
    end = len(prefixes)
    table = np.full((len(prefixes), len(tokens)), end)
    for s, prefix in enumerate(prefixes):
        for a, token in enumerate(tokens):
            if token != eos and len(prefix) + 1 < limit:
                table[s, a] = number[(*prefix, token)]
    return table


def text_logprobs(logits, ids, prompt_length, eos):
    """log π(response | prompt) of each row [B]; logits [B, L, V], ids [B, L] padded with eos."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_pi = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    predicted = np.take_along_axis(log_pi[:, :-1], ids[:, 1:, None], axis=2)[:, :, 0]
    response = predicted[:, prompt_length - 1 :]
    is_eos = ids[:, prompt_length:] == eos
    mask = is_eos.cumsum(axis=1) - is_eos == 0  # no EOS before this token
    return np.where(mask, response, 0.0).sum(axis=1)


def backward_values(next_state, rewards, pi):
    """V [S] of every prefix under π [S, V], from the last prefix back to the first."""
    S = len(next_state)
    V = np.zeros(S + 1)  # V[S] = 0: the end
    for s in reversed(range(S)):
        V[s] = pi[s] @ (rewards[s] + V[next_state[s]])
    return V[:S]


def gradient_by_enumeration(table, states, tokens, mask, rewards):
    """∇J [S, V] as a sum over every response: chance · reward · the scores of its tokens."""
    weights = np.exp(table - table.max(axis=1, keepdims=True))
    pi = weights / weights.sum(axis=1, keepdims=True)
    chances = np.where(mask, pi[states, tokens], 1.0).prod(axis=1)
    gradient = np.zeros_like(pi)
    for n in range(len(rewards)):
        for t in np.flatnonzero(mask[n]):
            s, a = states[n, t], tokens[n, t]
            score = -pi[s]
            score[a] += 1.0
            gradient[s] += chances[n] * rewards[n] * score
    return gradient


def reinforce_update(table, states, tokens, mask, rewards, rate):
    """The table [S, V] after one step of REINFORCE on a batch [B, T], with reward-to-go."""
    weights = np.exp(table - table.max(axis=1, keepdims=True))
    pi = weights / weights.sum(axis=1, keepdims=True)
    paid = np.where(mask, rewards, 0.0)
    left = paid[:, ::-1].cumsum(axis=1)[:, ::-1]  # from this token on
    gradient = np.zeros_like(pi)
    for b, t in zip(*np.nonzero(mask), strict=True):
        s, a = states[b, t], tokens[b, t]
        gradient[s] -= left[b, t] * pi[s]
        gradient[s, a] += left[b, t]
    return table + rate * gradient / len(rewards)


# --- cases -----------------------------------------------------------------------------------


def _prefixes(vocabulary, eos, limit):
    letters = [token for token in range(vocabulary) if token != eos]
    return [prefix for t in range(limit) for prefix in product(letters, repeat=t)]


def _every_response(vocabulary, eos, limit):
    """States, tokens and mask [M, T] of every response."""
    prefixes = _prefixes(vocabulary, eos, limit)
    number = {prefix: s for s, prefix in enumerate(prefixes)}
    letters = [token for token in range(vocabulary) if token != eos]
    texts = [(*prefix, eos) for prefix in prefixes] + list(product(letters, repeat=limit))
    states = np.zeros((len(texts), limit), dtype=int)
    tokens = np.full((len(texts), limit), eos)
    mask = np.zeros((len(texts), limit), dtype=bool)
    for n, text in enumerate(texts):
        tokens[n, : len(text)] = text
        mask[n, : len(text)] = True
        states[n, : len(text)] = [number[text[:t]] for t in range(len(text))]
    return states, tokens, mask


def _transition_cases(rng):
    # Prefixes (), (0,), (1,); EOS 2; at most two tokens. From () the tokens 0 and 1 lead to the
    # prefixes 1 and 2; everything else ends.
    sizes = [(3, 2, 2), (3, 2, 3), (3, 0, 3), (2, 1, 4), (4, 1, 2), (4, 3, 3), (3, 1, 1)]
    return [
        {"prefixes": _prefixes(V, eos, T), "tokens": np.arange(V), "eos": eos, "limit": T}
        for V, eos, T in sizes
    ]


def _logprob_cases(rng):
    # Probabilities 1/4 and 3/4 everywhere. Prompt [1]; responses [0, 1] and [1] (then padding):
    # log 1/4 + log 3/4 and log 3/4. The output at the last column predicts nothing.
    quarter = np.log(np.array([0.25, 0.75]))
    cases = [
        {
            "logits": np.tile(quarter, (2, 3, 1)), "ids": np.array([[1, 0, 1], [1, 1, 1]]),
            "prompt_length": 1, "eos": 1,
        }
    ]  # fmt: skip
    for B, P, T, V, eos in ((3, 2, 3, 3, 2), (4, 1, 4, 4, 0), (3, 3, 3, 3, 1), (5, 2, 5, 4, 3)):
        letters = [token for token in range(V) if token != eos]
        ids = rng.choice(letters, size=(B, P + T))
        ids[:, 0] = eos  # a text may begin with this token, as GPT-2's do
        for b, length in enumerate(rng.permutation(T + 1)[:B]):  # T: cut at the limit
            ids[b, P + length :] = eos
        ids[0, P + T - 1] = letters[0]
        ids[1, P + 1 :] = eos
        logits = random_halves(rng, (B, P + T, V)) / 2
        cases.append({"logits": logits, "ids": ids, "prompt_length": P, "eos": eos})
    cases.append(dict(cases[1], logits=cases[1]["logits"] + 40.0))
    return cases


def _value_cases(rng):
    # Two prefixes, () and (0,); token 1 is the EOS, at most two tokens. (0,): 1/2·1 + 1/2·3 = 2;
    # (): 1/4·(0 + 2) + 3/4·4 = 3.5.
    cases = [
        {
            "next_state": np.array([[1, 2], [2, 2]]),
            "rewards": np.array([[0.0, 4.0], [1.0, 3.0]]),
            "pi": np.array([[0.25, 0.75], [0.5, 0.5]]),
        }
    ]
    for V, eos, T in ((3, 2, 2), (3, 0, 3), (2, 1, 4), (4, 3, 2), (3, 1, 3), (2, 0, 5)):
        table = token_transitions(_prefixes(V, eos, T), range(V), eos, T)
        shape = table.shape
        cases.append(
            {
                "next_state": table,
                "rewards": random_halves(rng, shape),
                "pi": random_distributions(rng, V, len(table)),
            }
        )
    return cases


def _gradient_cases(rng):
    # One state, no limit but one token: π = (1/2, 1/2), rewards 0 and 4 (EOS is token 1).
    # 1/2 · 4 · (-1/2, 1/2) = (-1, 1), and the response that earns 0 adds nothing.
    cases = []
    for V, eos, T in ((2, 1, 1), (2, 1, 2), (3, 2, 2), (3, 0, 3), (2, 0, 4), (4, 3, 2)):
        states, tokens, mask = _every_response(V, eos, T)
        S = 1 + int(states.max())
        rewards = random_halves(rng, len(mask))
        cases.append(
            {
                "table": np.zeros((S, V)) if T == 1 else random_halves(rng, (S, V)) / 4,
                "states": states, "tokens": tokens, "mask": mask,
                "rewards": np.array([4.0, 0.0]) if T == 1 else rewards,
            }
        )  # fmt: skip
    return cases


def _update_cases(rng):
    # Two states, π = 1/2 everywhere, one response: token 0 pays -1, then token 1 (the EOS) pays 5.
    # To go: 4 and 5. Row 0: 4 · (1/2, -1/2); row 1: 5 · (-1/2, 1/2). Rate 1.
    cases = [
        {
            "table": np.zeros((2, 2)), "states": np.array([[0, 1]]), "tokens": np.array([[0, 1]]),
            "mask": np.array([[True, True]]), "rewards": np.array([[-1.0, 5.0]]), "rate": 1.0,
        }
    ]  # fmt: skip
    for V, eos, T, B, rate in (
        (3, 2, 3, 4, 0.5), (2, 1, 4, 5, 0.5), (3, 0, 2, 3, 1.0), (4, 3, 3, 6, 0.25), (3, 1, 3, 5, 2)
    ):  # fmt: skip
        states, tokens, mask = _every_response(V, eos, T)
        lengths = mask.sum(axis=1)
        drawn = rng.integers(len(mask), size=B)
        drawn[:2] = np.flatnonzero(lengths == 2)[0], np.flatnonzero(lengths == T)[-1]
        rewards = random_halves(rng, (B, T))  # what stands under the padding is arbitrary
        rewards[:, -1] += 0.25
        cases.append(
            {
                "table": random_halves(rng, (1 + int(states.max()), V)) / 4,
                "states": states[drawn], "tokens": tokens[drawn], "mask": mask[drawn],
                "rewards": rewards, "rate": rate,
            }
        )  # fmt: skip
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _transitions_with(end=None, child=lambda prefix, token: (*prefix, token)):
    """A maker of wrong transitions: another end (given the state), another child."""

    def answer(prefixes, tokens, eos, limit):
        number = {prefix: s for s, prefix in enumerate(prefixes)}
        table = np.zeros((len(prefixes), len(tokens)), dtype=int)
        for s, prefix in enumerate(prefixes):
            for token in tokens:
                ends = token == eos or len(prefix) + 1 == limit
                otherwise = len(prefixes) if end is None else end(s)
                table[s, token] = otherwise if ends else number[child(prefix, token)]
        return table

    return answer


def _eos_stays(prefixes, tokens, eos, limit):
    table = token_transitions(prefixes, tokens, eos, limit)
    table[:, eos] = np.arange(len(prefixes))
    return table


def log_softmax(logits):
    """log π of logits [..., V]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def by_position(ids, prompt_length, eos):
    """True up to the first EOS of the response, that one included [B, T]."""
    is_eos = ids[:, prompt_length:] == eos
    return is_eos.cumsum(axis=1) - is_eos == 0


def _scores(log_pi, ids, prompt_length):
    """log π of the response tokens [B, T], each from the output one position before."""
    outputs = log_pi[:, prompt_length - 1 : -1]
    return np.take_along_axis(outputs, ids[:, prompt_length:, None], axis=2)[:, :, 0]


def _unmasked(logits, ids, prompt_length, eos):
    return _scores(log_softmax(logits), ids, prompt_length).sum(axis=1)


def _eos_lost(logits, ids, prompt_length, eos):
    scores = _scores(log_softmax(logits), ids, prompt_length)
    return np.where(ids[:, prompt_length:] != eos, scores, 0.0).sum(axis=1)


def _mean(logits, ids, prompt_length, eos):
    mask = by_position(ids, prompt_length, eos)
    return text_logprobs(logits, ids, prompt_length, eos) / mask.sum(axis=1)


def _not_shifted(logits, ids, prompt_length, eos):
    log_pi = log_softmax(logits)[:, prompt_length:]
    scores = np.take_along_axis(log_pi, ids[:, prompt_length:, None], axis=2)[:, :, 0]
    return np.where(by_position(ids, prompt_length, eos), scores, 0.0).sum(axis=1)


def _prompt_too(logits, ids, prompt_length, eos):
    prompt = _scores(log_softmax(logits)[:, :prompt_length], ids[:, :prompt_length], 1)
    return text_logprobs(logits, ids, prompt_length, eos) + prompt.sum(axis=1)


def _first_token_lost(logits, ids, prompt_length, eos):
    scores = _scores(log_softmax(logits), ids, prompt_length)
    mask = by_position(ids, prompt_length, eos)
    return np.where(mask, scores, 0.0)[:, 1:].sum(axis=1)


def _raw_logits(logits, ids, prompt_length, eos):
    scores = _scores(logits, ids, prompt_length)
    return np.where(by_position(ids, prompt_length, eos), scores, 0.0).sum(axis=1)


def _first_eos_of_the_row(logits, ids, prompt_length, eos):
    is_eos = ids == eos
    mask = (is_eos.cumsum(axis=1) - is_eos == 0)[:, prompt_length:]
    return np.where(mask, _scores(log_softmax(logits), ids, prompt_length), 0.0).sum(axis=1)


def _values_with(backup):
    """A maker of wrong recursions: another backup of one prefix."""

    def answer(next_state, rewards, pi):
        S = len(next_state)
        V = np.zeros(S + 1)
        for s in reversed(range(S)):
            V[s] = backup(rewards[s], V[next_state[s]], pi[s], next_state[s] == S)
        return V[:S]

    return answer


def _end_is_the_last_prefix(next_state, rewards, pi):
    S = len(next_state)
    V = np.zeros(S)
    for s in reversed(range(S)):
        V[s] = pi[s] @ (rewards[s] + V[np.minimum(next_state[s], S - 1)])
    return V


def _gradient_with(weight):
    """A maker of wrong gradients: another weight [M, T] for the scores."""

    def answer(table, states, tokens, mask, rewards):
        pi = np.exp(log_softmax(table))
        chances = np.where(mask, pi[states, tokens], 1.0).prod(axis=1)
        weights = weight(chances[:, None], rewards[:, None], mask, pi[states, tokens])
        return scattered(pi, states, tokens, np.broadcast_to(weights, mask.shape))

    return answer


def scattered(pi, states, tokens, weights):
    """Σ weight · ∇ log π(token | state) over the cells of [B, T], as [S, V]."""
    gradient = np.zeros_like(pi)
    np.add.at(gradient, (states, tokens), weights)
    np.add.at(gradient, states, -weights[..., None] * pi[states])
    return gradient


def _without_pi(table, states, tokens, mask, rewards):
    pi = np.exp(log_softmax(table))
    chances = np.where(mask, pi[states, tokens], 1.0).prod(axis=1)
    gradient = np.zeros_like(pi)
    weights = np.where(mask, (chances * rewards)[:, None], 0.0)
    np.add.at(gradient, (states, tokens), weights)
    return gradient


def _met_twice_added_once(table, states, tokens, mask, rewards):
    pi = np.exp(log_softmax(table))
    chances = np.where(mask, pi[states, tokens], 1.0).prod(axis=1)
    weights = np.where(mask, (chances * rewards)[:, None], 0.0)
    gradient = np.zeros_like(pi)
    gradient[states, tokens] += weights
    gradient[states] -= weights[..., None] * pi[states]
    return gradient


def to_go(rewards):
    """Sums of the rewards from each column on."""
    return rewards[:, ::-1].cumsum(axis=1)[:, ::-1]


def _reward_of_the_last_token_alone(table, states, tokens, mask, rewards, rate):
    rows, last = np.arange(len(mask)), mask.sum(axis=1) - 1
    paid = np.zeros(rewards.shape)
    paid[rows, last] = rewards[rows, last]
    return reinforce_update(table, states, tokens, mask, paid, rate)


def _update_with(weight, share=lambda mask: 1 / len(mask)):
    """A maker of wrong updates: other weights of (rewards, mask), another share of each cell."""

    def answer(table, states, tokens, mask, rewards, rate):
        paid = np.where(mask, rewards, 0.0)
        weights = np.where(mask, weight(paid, rewards), 0.0) * share(mask)
        pi = np.exp(log_softmax(table))
        return table + rate * scattered(pi, states, tokens, weights)

    return answer


EXERCISES: dict[str, Exercise] = {
    "token_transitions": Exercise(
        reference=token_transitions,
        cases=_transition_cases,
        hint="Give every prefix its number in a dictionary. Which two things end a text?",
        wrong_answers=(
            WrongAnswer(
                "an EOS that stays where it is",
                _eos_stays,
                "Writing the EOS is an action, and it leads somewhere: to the end.",
            ),
            WrongAnswer(
                "an end that is the empty prefix",
                _transitions_with(end=lambda s: 0),
                "State 0 is a text of no tokens, in which everything is still to be won. The end "
                "needs a number of its own.",
            ),
            WrongAnswer(
                "an end that stays in the last prefix",
                _transitions_with(end=lambda s: s),
                "A finished text is no prefix any more: nothing is chosen in it.",
            ),
            WrongAnswer(
                "the end as -1",
                _transitions_with(end=lambda s: -1),
                "As an index -1 is the last prefix, and nothing warns you. Use number S.",
            ),
            WrongAnswer(
                "the token put in front",
                _transitions_with(child=lambda prefix, token: (token, *prefix)),
                "Text is appended to: the new token is the last one of the new prefix.",
            ),
            WrongAnswer(
                "the transpose",
                lambda prefixes, tokens, eos, limit: (
                    token_transitions(prefixes, tokens, eos, limit).T
                ),
                "One row for each prefix, one column for each token.",
            ),
        ),
    ),
    "text_logprobs": Exercise(
        reference=text_logprobs,
        cases=_logprob_cases,
        hint="Three steps: a log-softmax; the output at position t against the token at t + 1; "
        "and a mask that is True up to the first EOS of the response, that one included.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "a sum that counts the padding",
                _unmasked,
                "After its first EOS a text has ended. What stands there was chosen by nobody.",
            ),
            WrongAnswer(
                "a sum that loses the EOS",
                _eos_lost,
                "The EOS was chosen by the policy like any other token. Only what comes after it "
                "is padding.",
            ),
            WrongAnswer(
                "the mean instead of the sum",
                _mean,
                "Probabilities multiply along a text, so log-probabilities add up.",
            ),
            WrongAnswer(
                "shifted by one",
                _not_shifted,
                "The output at a token's own position has already read it. Which output predicts "
                "it?",
            ),
            WrongAnswer(
                "a sum that loses the first token",
                _first_token_lost,
                "The last output of the prompt predicts the first token of the response.",
            ),
            WrongAnswer(
                "the loss",
                lambda logits, ids, prompt_length, eos: (
                    -text_logprobs(logits, ids, prompt_length, eos)
                ),
                "Right but for the sign: a log-probability is never above 0.",
            ),
            WrongAnswer(
                "prompt and response together",
                _prompt_too,
                "The prompt was given, not chosen. From which token on does the policy choose?",
            ),
            WrongAnswer(
                "a sum of raw logits",
                _raw_logits,
                "A logit is no log-probability until it is normalised over the vocabulary.",
            ),
            WrongAnswer(
                "a text that ends in its prompt",
                _first_eos_of_the_row,
                "A prompt may hold the EOS too; GPT-2's texts begin with it. Look for the first "
                "one of the response.",
            ),
            WrongAnswer(
                "the probability itself",
                lambda logits, ids, prompt_length, eos: np.exp(
                    text_logprobs(logits, ids, prompt_length, eos)
                ),
                "Right but for the logarithm, which is what is asked for.",
            ),
        ),
    ),
    "backward_values": Exercise(
        reference=backward_values,
        cases=_value_cases,
        hint="Make room for S + 1 values, the last one 0 for the end. A child has a larger number "
        "than its prefix: in which order are the values known?",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the best token instead of the average",
                _values_with(lambda r, after, pi, ends: (r + after).max()),
                "That is V*, of the best policy. This policy draws its tokens from π.",
            ),
            WrongAnswer(
                "the immediate reward alone",
                _values_with(lambda r, after, pi, ends: pi @ r),
                "The values after the token are missing. Going forwards they are still 0 when they "
                "are asked for.",
            ),
            WrongAnswer(
                "every token as likely",
                _values_with(lambda r, after, pi, ends: (r + after).mean()),
                "A plain mean is the value under the uniform policy. How often does π draw each?",
            ),
            WrongAnswer(
                "the last prefix taken for the end",
                _end_is_the_last_prefix,
                "After the end nothing more is earned: its value is 0, not that of some prefix.",
            ),
            WrongAnswer(
                "a reward at ends only",
                _values_with(lambda r, after, pi, ends: pi @ np.where(ends, r, after)),
                "A token that does not end the text may have a price too: reward and value add.",
            ),
            WrongAnswer(
                "the likeliest token only",
                _values_with(lambda r, after, pi, ends: (r + after)[pi.argmax()]),
                "That is greedy decoding. A value averages over everything the policy may write.",
            ),
        ),
    ),
    "gradient_by_enumeration": Exercise(
        reference=gradient_by_enumeration,
        cases=_gradient_cases,
        hint="For every response: its chance (a product over its tokens), times its reward, times "
        "the sum of its scores. The score of token a in state s is 1[a] - π, in row s.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "every response as likely",
                _gradient_with(lambda chance, R, mask, pi: mask * R / len(mask)),
                "The expectation is over what the policy writes: each response counts with its "
                "chance.",
            ),
            WrongAnswer(
                "a sum without the chances",
                _gradient_with(lambda chance, R, mask, pi: mask * R),
                "The sum runs over all responses, and some of them are hardly ever written.",
            ),
            WrongAnswer(
                "padding counted as tokens",
                _gradient_with(lambda chance, R, mask, pi: chance * R * np.ones_like(pi)),
                "Behind the end of a response nothing was chosen. What is the mask for?",
            ),
            WrongAnswer(
                "the mean over the tokens",
                _gradient_with(
                    lambda chance, R, mask, pi: chance * R * mask / mask.sum(1)[:, None]
                ),
                "log π of a response is the sum over its tokens. Dividing by the length follows "
                "another objective.",
            ),
            WrongAnswer(
                "credit for the last token alone",
                _gradient_with(
                    lambda chance, R, mask, pi: (
                        chance * R * (mask.cumsum(1) == mask.sum(1)[:, None]) * mask
                    )
                ),
                "The reward is paid at the end, but every token has led there.",
            ),
            WrongAnswer(
                "the chance of the token, not of the response",
                _gradient_with(lambda chance, R, mask, pi: mask * pi * R),
                "How likely is the whole response? Multiply along it.",
            ),
            WrongAnswer(
                "a state met twice, added once",
                _met_twice_added_once,
                "With arrays as index, += keeps one of the terms that fall on the same cell. Add "
                "them in a loop.",
            ),
            WrongAnswer(
                "a score without its second half",
                _without_pi,
                "Raising one logit lowers the probability of the other tokens: that is the -π.",
            ),
            WrongAnswer(
                "the gradient of the loss",
                lambda table, states, tokens, mask, rewards: (
                    -gradient_by_enumeration(table, states, tokens, mask, rewards)
                ),
                "Right but for the sign: J is to be made large.",
            ),
        ),
    ),
    "reinforce_update": Exercise(
        reference=reinforce_update,
        cases=_update_cases,
        hint="Which rewards can a token still change? Its own, and those of the tokens after it.",
        tolerance=FLOAT32,
        wrong_answers=(
            WrongAnswer(
                "the broken loop: each token with its own reward",
                _update_with(lambda paid, rewards: paid),
                "The reward of a text is paid at its end. With this weight the tokens before the "
                "end never hear of it.",
            ),
            WrongAnswer(
                "the whole return for every token",
                _update_with(lambda paid, rewards: paid.sum(axis=1, keepdims=True)),
                "The mean is right, but what was paid before a token only adds noise: use what is "
                "still to come.",
            ),
            WrongAnswer(
                "the last token's reward for all",
                _reward_of_the_last_token_alone,
                "That mends the film's loop. But here earlier tokens may be paid too: add up all "
                "that is still to come.",
            ),
            WrongAnswer(
                "rewards so far",
                _update_with(lambda paid, rewards: paid.cumsum(axis=1)),
                "This sum runs from the left. No token can change what is already paid.",
            ),
            WrongAnswer(
                "only what comes after the token",
                _update_with(lambda paid, rewards: to_go(paid) - paid),
                "The token's own reward belongs to it as well, above all that of the EOS.",
            ),
            WrongAnswer(
                "what stands under the padding",
                _update_with(lambda paid, rewards: to_go(rewards)),
                "Clear the cells that do not count before you sum, not after.",
            ),
            WrongAnswer(
                "the sum over the responses",
                _update_with(lambda paid, rewards: to_go(paid), lambda mask: 1.0),
                "With this the step grows with the batch. Take the mean over the responses.",
            ),
            WrongAnswer(
                "the mean over all tokens",
                _update_with(lambda paid, rewards: to_go(paid), lambda mask: 1 / mask.sum()),
                "Sum over the tokens of a response, and take the mean over the responses.",
            ),
            WrongAnswer(
                "the mean over each response's tokens",
                _update_with(
                    lambda paid, rewards: to_go(paid),
                    lambda mask: 1 / mask.sum(axis=1, keepdims=True) / len(mask),
                ),
                "Dividing by a response's own length makes its tokens the weaker the more there "
                "are. Only the responses are averaged.",
            ),
            WrongAnswer(
                "a step downhill",
                lambda table, states, tokens, mask, rewards, rate: reinforce_update(
                    table, states, tokens, mask, rewards, -rate
                ),
                "This lowers J. Ascent adds the gradient.",
            ),
        ),
    ),
}
