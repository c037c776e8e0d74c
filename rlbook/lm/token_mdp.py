"""A language model's texts as a Markov decision process, for the planners of Part I.

    state        prompt and prefix: what has been written so far
    action       the next token
    transition   the token is appended, with probability 1; EOS or the length limit ends the text
    reward       0, and R(response) for the token that ends it
    discount     1: every text ends

States are numbered as the rows of the model's table; one state more, the last, is the end.
The bandit's view of the same problem has one choice only: the whole response.

scipy and rlbook.tabular.mdp are imported when a function is called, so that importing rlbook.lm
needs neither.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlbook.lm.exact import checked_rewards, enumerate_responses, response_states, sequence_logprobs
from rlbook.lm.tabular_lm import TabularLM

LARGEST_TABLE = 5 * 10**7  # entries of a dense P: 400 MB


def token_mdp(model: TabularLM, rewards: Float[Tensor, " B"]) -> Any:
    """The token-by-token decision process of a model's texts, as a ``tabular.mdp.MDP``.

    Only the texts of ``model`` matter, not its logits: those are a policy, ``policy_matrix``.

    Args:
        rewards: R [B], one per response in the order of ``enumerate_responses``. What a response
            cut at the limit earns is the task's business (0, as a rule): the limit is an end like
            EOS, so nothing is bootstrapped there.

    Returns:
        An MDP with S + 1 states, V actions, and the prompts as start, each as likely.

    Raises:
        ValueError: not one reward per response; more than 5·10⁷ transitions to write down.

    Book: 12_text_as_mdp.
    """
    from rlbook.tabular.mdp import MDP

    S, V = model.table.shape
    if (S + 1) ** 2 * V > LARGEST_TABLE:
        raise ValueError(
            f"{S} states and {V} tokens need {(S + 1) ** 2 * V} transitions, more than "
            f"{LARGEST_TABLE}: use a shorter length limit, or the sums of rlbook.lm.exact"
        )
    responses = enumerate_responses(model)
    states = response_states(model, responses).cpu().numpy()
    tokens = responses.response_ids.cpu().numpy()
    last = responses.lengths.cpu().numpy() - 1
    rows = np.arange(len(last))

    P, R = np.zeros((S + 1, V, S + 1)), np.zeros((S + 1, V))
    goes_on = states[:, 1:] >= 0
    P[states[:, :-1][goes_on], tokens[:, :-1][goes_on], states[:, 1:][goes_on]] = 1.0
    ends = states[rows, last], tokens[rows, last]
    P[(*ends, S)] = 1.0
    R[ends] = _numbers(model, rewards)
    start = np.zeros(S + 1)
    start[: S : len(model.space.prefixes)] = 1.0 / len(model.space.prompts)  # the empty prefixes
    return MDP.absorbing(P, R, np.arange(S + 1) == S, start)


def policy_matrix(model: TabularLM) -> Float[np.ndarray, "states V"]:
    """The model's next-token probabilities as the policy π(a|s) of its token MDP [S + 1, V];
    uniform at the end, where nothing is chosen.

    For another language model of the same texts: ``policy_matrix(model.tabulate(other))``.

    Book: 12_text_as_mdp.
    """
    with torch.no_grad():
        pi = torch.softmax(model.table.double(), dim=-1).cpu().numpy()
    return _with_end(pi)


def state_names(model: TabularLM, words: Sequence[str] | None = None) -> list[str]:
    """How each state of the token MDP reads, for displays: "prompt | prefix", and "end".

    Args:
        words: what to write for each token [V]. Default: its number.

    Raises ValueError unless there is one word per token.
    """
    V = model.space.vocab_size
    words = [str(token) for token in range(V)] if words is None else words
    if len(words) != V:
        raise ValueError(f"{len(words)} words for {V} tokens: give one per token")

    def text(tokens: tuple[int, ...]) -> str:
        return " ".join(words[token] for token in tokens)

    texts = [
        (text(prompt), text(prefix))
        for prompt in model.space.prompts
        for prefix in model.space.prefixes
    ]
    return [f"{prompt} | {prefix}".rstrip() for prompt, prefix in texts] + ["end"]


def bandit_mdp(model: TabularLM, rewards: Float[Tensor, " B"]) -> Any:
    """The same problem with one choice per text: an action is a whole response.

    Returns:
        An MDP with N + 1 states (the prompts and the end) and M actions, numbered as one prompt's
        responses in ``enumerate_responses``; each ends the episode and pays its reward.

    Raises ValueError unless there is one reward per response.

    Book: 12_text_as_mdp.
    """
    from rlbook.tabular.mdp import MDP

    N, M = len(model.space.prompts), len(model.space.responses)
    P, R = np.zeros((N + 1, M, N + 1)), np.zeros((N + 1, M))
    P[:, :, N] = 1.0
    R[:N] = _numbers(model, rewards).reshape(N, -1)
    return MDP.absorbing(P, R, np.arange(N + 1) == N)


def bandit_policy(model: TabularLM) -> Float[np.ndarray, "prompts M"]:
    """π(y|x) of every whole response [N + 1, M]: the model as the policy of ``bandit_mdp``.

    Book: 12_text_as_mdp.
    """
    with torch.no_grad():
        pi = sequence_logprobs(model).double().exp().cpu().numpy()
    return _with_end(pi.reshape(len(model.space.prompts), -1))


def _with_end(pi: Float[np.ndarray, "S A"]) -> Float[np.ndarray, "states A"]:
    """A row more, for the end, where any choice will do."""
    return np.concatenate([pi, np.full((1, pi.shape[1]), 1.0 / pi.shape[1])])


def _numbers(model: TabularLM, rewards: Tensor) -> Float[np.ndarray, " B"]:
    return checked_rewards(model, rewards).detach().double().cpu().numpy()
