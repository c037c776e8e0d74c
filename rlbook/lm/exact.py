"""What is true of a TabularLM, by adding up over every response it can give.

Nothing here is sampled. A reward is a vector with one number per response, in the order of
``enumerate_responses``: all the responses of the first prompt, then of the second, ... Prompts are
drawn uniformly. Results are differentiable in the model's table, except ``policy_gradient`` and
``matching``, which are results about derivatives and tables themselves.

    J(θ) = 1/N Σ_x Σ_y π(y|x) R(x, y),        log π(y|x) = Σ_t log π(y_t | x, y_<t)

Letters: B = N·M responses, M of each of N prompts; T tokens; V vocabulary; S states, the rows of
the table; d(s) the probability of meeting state s.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlbook.lm.batch import Responses, pad_left, pad_right
from rlbook.lm.tabular_lm import TabularLM

# --- every response --------------------------------------------------------------------------


def enumerate_responses(model: TabularLM) -> Responses:
    """Every response to every prompt, those of one prompt next to one another, in the order of
    their tokens. ``sampler_logprobs`` are the model's.

    A response without EOS is ``truncated`` if the model has an EOS; without one, T tokens are
    what a response is.

    Book: 12_text_as_mdp.
    """
    space, pad_id, device = model.space, model.config.pad_token_id, model.table.device
    N, M = len(space.prompts), len(space.responses)
    prompt_ids, prompt_mask = pad_left([x for x in space.prompts for _ in range(M)], pad_id)
    response_ids, response_mask = pad_right(space.responses * N, pad_id)
    cut = [space.eos_id is not None and y[-1] != space.eos_id for y in space.responses]
    texts = [" ".join(str(token) for token in y if token != space.eos_id) for y in space.responses]
    return Responses(
        prompt_ids=prompt_ids.to(device),
        prompt_mask=prompt_mask.to(device),
        response_ids=response_ids.to(device),
        response_mask=response_mask.to(device),
        sampler_logprobs=enumerated_logprobs(model).detach(),
        texts=texts * N,
        truncated=torch.tensor(cut * N, device=device),
    )


def response_states(model: TabularLM, responses: Responses) -> Int[Tensor, "B T"]:
    """The row of the table from which each response token was chosen; -1 where masked.

    Works for any responses to the model's prompts, sampled ones too: ``V[response_states(...)]``
    are the exact values along a text.

    Book: 12_text_as_mdp.
    """
    states = model.space.states(responses.sequence_ids, responses.sequence_mask)
    P = responses.prompt_ids.shape[1]
    return torch.where(responses.response_mask, states[:, P - 1 : -1], -1)


def enumerated_logprobs(model: TabularLM) -> Float[Tensor, "B T"]:
    """log π(y_t | x, y_<t) of every token of every response, looked up in the table; 0 after the
    end."""
    states, tokens, mask = model.space.paths(model.table.device)
    logprobs = torch.log_softmax(model.table, dim=-1)[states, tokens]
    return torch.where(mask, logprobs, 0.0)


def sequence_logprobs(model: TabularLM) -> Float[Tensor, " B"]:
    """log π(y|x) of every response, in nats. For each prompt the probabilities sum to 1.

    Book: 12_text_as_mdp.
    """
    return enumerated_logprobs(model).sum(dim=1)


# --- reward ----------------------------------------------------------------------------------


def expected_reward(model: TabularLM, rewards: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """The objective itself: J = 1/N Σ_x Σ_y π(y|x) R(x, y). Its gradient is the policy gradient.

    Raises ValueError unless there is one finite reward per response.

    Book: 12_text_as_mdp.
    """
    rewards = checked_rewards(model, rewards)
    return (sequence_logprobs(model).exp() * rewards).sum() / len(model.space.prompts)


def expected_pass_at_k(
    model: TabularLM, correct: Float[Tensor, " B"], *, k: int
) -> Float[Tensor, ""]:
    """The chance that at least one of k samples is correct, averaged over the prompts.

        pass@k = 1/N Σ_x [ 1 - (1 - p(x))^k ],    p(x) = Σ_y π(y|x) correct(x, y)

    Raises ValueError for k < 1 and for numbers other than 0 and 1.

    Book: 11_generation. Source: Chen et al. (2021), section 2.1.
    """
    correct = checked_rewards(model, correct)
    if k < 1 or not ((correct == 0) | (correct == 1)).all():
        raise ValueError(f"pass@k needs k >= 1 and rewards of 0 or 1; k={k}, rewards {correct}")
    p = (sequence_logprobs(model).exp() * correct).reshape(len(model.space.prompts), -1).sum(dim=1)
    return (1.0 - (1.0 - p) ** k).mean()


def best_of_n_logprobs(
    model: TabularLM, rewards: Float[Tensor, " B"], *, n: int
) -> Float[Tensor, " B"]:
    """Log-probability that y is the best of n responses drawn from the model, for every y.

        π_n(y|x) = π(y|x) (F(y)^n - F⁻(y)^n) / (F(y) - F⁻(y))

    F and F⁻ are the chances that one response earns at most, and less than, what y does. Of
    equally good ones each is given equally often. ``matching(model, ...)`` makes a model of it,
    and ``sequence_kl(matching(model, ...), model)`` is its exact distance from the first.

    Raises ValueError for n < 1, and for rewards that are not one finite number per response.

    Book: 15_rejection_sampling.
    """
    if n < 1:
        raise ValueError(f"n={n}: the best of how many? At least 1")
    rewards = checked_rewards(model, rewards).view(len(model.space.prompts), -1)
    log_pi = sequence_logprobs(model).view_as(rewards)
    pi = log_pi.exp()[:, None, :]
    up_to = torch.where(rewards[:, None, :] <= rewards[:, :, None], pi, 0.0).sum(dim=2)
    below = torch.where(rewards[:, None, :] < rewards[:, :, None], pi, 0.0).sum(dim=2)
    # (F^n - f^n) / (F - f) = F^(n-1) · (1 + q + ... + q^(n-1)) with q = f/F: no difference is lost
    powers = torch.arange(n, device=pi.device)
    series = ((below / up_to)[..., None] ** powers).sum(dim=-1)
    return (log_pi + (n - 1) * up_to.log() + series.log()).flatten()


def prefix_values(
    model: TabularLM, rewards: Float[Tensor, " B"]
) -> tuple[Float[Tensor, " S"], Float[Tensor, "S V"]]:
    """Expected reward from every prefix on, and after every next token.

        V(s) = Σ_y π(y | s) R(y) over the responses y that begin with s;    Q(s, a) = V(s a)

    Q of a token that ends the response is its reward. No Bellman equation is used: that these
    numbers satisfy it is a result (``token_mdp`` and Part I's ``policy_evaluation``).

    Book: 12_text_as_mdp.
    """
    rewards = checked_rewards(model, rewards)
    states, tokens, mask = model.space.paths(model.table.device)
    logprobs = enumerated_logprobs(model)
    from_here = logprobs.flip(1).cumsum(dim=1).flip(1)  # log-probability of the rest, token t on
    after_it = torch.cat([from_here[:, 1:], torch.zeros_like(from_here[:, :1])], dim=1)
    S, A = model.table.shape
    V = _sums(from_here.exp() * rewards[:, None], states, mask, S)
    Q = _sums(after_it.exp() * rewards[:, None], states * A + tokens, mask, S * A)
    return V, Q.reshape(S, A)


def prefix_probabilities(model: TabularLM) -> Float[Tensor, " S"]:
    """d(s): the probability that a text, its prompt drawn uniformly, passes through state s.

    They sum to the expected length of a response in tokens.

    Book: 12_text_as_mdp.
    """
    states, _, mask = model.space.paths(model.table.device)
    whole = sequence_logprobs(model).exp()[:, None] / len(model.space.prompts)
    return _sums(whole.expand(mask.shape), states, mask, len(model.table))


def policy_gradient(model: TabularLM, rewards: Float[Tensor, " B"]) -> Float[Tensor, "S V"]:
    """∇J in closed form, state by state: the policy-gradient theorem for a softmax table.

        ∂J / ∂table[s, a] = d(s) π(a|s) ( Q(s, a) - V(s) )

    Carries no gradient. Autograd through ``expected_reward`` gives the same numbers.

    Book: 12_text_as_mdp. Source: Sutton et al. (2000), theorem 1.
    """
    with torch.no_grad():
        V, Q = prefix_values(model, rewards)
        pi = torch.softmax(model.table, dim=-1)
        return prefix_probabilities(model)[:, None] * pi * (Q - V[:, None])


# --- KL and entropy --------------------------------------------------------------------------


def sequence_kl(p: TabularLM, q: TabularLM) -> Float[Tensor, ""]:
    """KL divergence between two models' whole responses, in nats, averaged over the prompts.

        KL(p‖q) = 1/N Σ_x Σ_y p(y|x) ( log p(y|x) - log q(y|x) )

    Differentiable in both: ``sequence_kl(policy, reference)`` and ``sequence_kl(reference,
    policy)`` are the two directions that chapter 16 tells apart.

    Raises ValueError if the two do not know the same texts.

    Book: 16_kl.
    """
    _check_same_texts(p, q)
    return _kl(sequence_logprobs(p), sequence_logprobs(q)) / len(p.space.prompts)


def fixed_prefix_kl(
    p: TabularLM, q: TabularLM, *, drawn_by: TabularLM | None = None
) -> Float[Tensor, ""]:
    """The sum of the per-token KL divergences, with the prefixes they are met at held fixed.

        Σ_s d(s) KL( p(·|s) ‖ q(·|s) ),    d of ``drawn_by`` (default: p), without gradient

    With the default its *value* is ``sequence_kl(p, q)``, by the chain rule. Its *gradient* is
    only a part: it leaves out that the policy changes which prefixes occur. That part is what a
    per-token k2 loss follows, and with ``fixed_prefix_kl(ref, policy, drawn_by=policy)`` k3.

    Raises ValueError if the models do not know the same texts.

    Book: 16_kl.
    """
    drawn_by = p if drawn_by is None else drawn_by
    _check_same_texts(p, q)
    _check_same_texts(p, drawn_by)
    d = prefix_probabilities(drawn_by).detach()
    per_state = _kl(torch.log_softmax(p.table, dim=-1), torch.log_softmax(q.table, dim=-1))
    return torch.where(d > 0, d * per_state, 0.0).sum()  # a state never met: 0 · ∞ = 0


def sequence_entropy(model: TabularLM) -> Float[Tensor, ""]:
    """Entropy of the whole response in nats, averaged over the prompts: -Σ_y π(y|x) log π(y|x).

    Book: 12_text_as_mdp.
    """
    log_pi = sequence_logprobs(model)
    return -_kl(log_pi, torch.zeros_like(log_pi)) / len(model.space.prompts)


def matching(model: TabularLM, log_weights: Float[Tensor, " B"]) -> TabularLM:
    """The table whose responses are as likely as you please: π(y|x) ∝ exp(log_weights(x, y)).

        table[s, a] = log Σ exp(log_weights(y)) over the responses that begin with s, a

    Any distribution over whole responses (the bandit's view) is a policy over tokens. With
    log_weights = log π_ref + R/β it is the optimum of E[R] - β KL(π‖π_ref).

    Book: 12_text_as_mdp, 16_kl.
    """
    log_weights = checked_rewards(model, log_weights, "log_weights")
    states, tokens, mask = model.space.paths(model.table.device)
    S, V = model.table.shape
    cells = (states * V + tokens)[mask]
    weights = log_weights[:, None].expand(mask.shape)[mask]
    highest = torch.full((S * V,), -torch.inf, dtype=weights.dtype, device=weights.device)
    highest = highest.scatter_reduce(0, cells, weights, "amax")
    total = torch.zeros_like(highest).index_add(0, cells, (weights - highest[cells]).exp())
    return model.like((highest + total.log()).reshape(S, V))


# --- inside ----------------------------------------------------------------------------------


def _kl(
    log_p: Float[Tensor, "*shape V"], log_q: Float[Tensor, "*shape V"]
) -> Float[Tensor, "*shape"]:
    """Σ p (log p - log q) over the last axis, with 0 · log 0 = 0."""
    p = log_p.exp()
    possible = p > 0
    difference = torch.where(possible, log_p, 0.0) - torch.where(possible, log_q, 0.0)
    return (p * difference).sum(dim=-1)


def _sums(
    values: Float[Tensor, "B T"], places: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], size: int
) -> Float[Tensor, " size"]:
    """out[i] = the sum of the values whose place is i."""
    return values.new_zeros(size).index_add(0, places[mask], values[mask])


def checked_rewards(
    model: TabularLM, rewards: Tensor, name: str = "rewards"
) -> Float[Tensor, " B"]:
    """The rewards in the precision of the table, once there is a finite one per response."""
    B = len(model.space.prompts) * len(model.space.responses)
    if rewards.shape != (B,):
        raise ValueError(
            f"{name} has shape {tuple(rewards.shape)}; one number for each of the {B} responses of "
            "enumerate_responses(model) is needed"
        )
    if not rewards.isfinite().all():
        i = int((~rewards.isfinite()).nonzero()[0, 0])
        raise ValueError(f"{name}[{i}] = {rewards[i]}: every one must be a finite number")
    return rewards.to(model.table)


def _check_same_texts(p: TabularLM, q: TabularLM) -> None:
    if p.space != q.space:
        raise ValueError(
            "the two models do not know the same texts (prompts, vocabulary, EOS, length limit): "
            "make one with model.like(...)"
        )
