"""How likely a model finds a text: the one place that sets logits against the tokens they predict.

A model's output at position t-1 is its prediction of token t:

    position        0     1     2     3     4
    token           a     b     c     d     ∎        prompt a b c, response d ∎
    is predicted    -     0     1     2     3        by the output at this position

so the *last prompt token* predicts the first response token, and the output at the last response
token predicts nothing. ``token_logprobs`` takes this step of one, once, for everybody: responses
of a policy, demonstrations in packed rows, preference pairs.

Logits are made only where a token is scored, and in pieces: with a vocabulary of 50 000 they
would otherwise be the largest tensors in training, by far. Pieces are computed again in the
backward pass instead of being kept.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlbook.lm.backbone import body_mask, hidden_states, output_head
from rlbook.lm.batch import Responses, position_ids

PIECE = 2**24  # logits in memory at once: 64 MB in float32; keeps matrix products large enough


def response_logprobs(
    model: nn.Module, responses: Responses, *, temperature: float | int = 1.0
) -> Float[Tensor, "B T"]:
    """Log-probability of each response token, given the prompt and the tokens before it, in nats.

        log π(a_t | s_t) = z[a_t] / τ - log Σ_v exp(z[v] / τ),    z: logits after prompt and a_<t

    With gradient; 0 where ``response_mask`` is False. Neither the amount of padding, nor the ids
    under it, nor the order of the rows changes a value. At least float32, whatever the model.

    Args:
        model: ``policy.model``.
        temperature: τ above 0, the one that the tokens were sampled with (1 for greedy decoding,
            whose ``sampler_logprobs`` are those of temperature 1).

    Raises ValueError for a temperature that is not above 0.

    Book: 11_generation, 12_text_as_mdp.
    """
    return _response_scores(model, responses, temperature, with_entropy=False)[0]


def response_logprobs_and_entropy(
    model: nn.Module, responses: Responses, *, temperature: float | int = 1.0
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """``response_logprobs``, and the entropy of the choice that each token was, in one forward.

        H_t = -Σ_v π(v | s_t) log π(v | s_t),    in nats, at the same temperature

    Both [B, T], with gradient, and 0 where ``response_mask`` is False.

    Book: 17_ppo_gpt2.
    """
    logprobs, entropy = _response_scores(model, responses, temperature, with_entropy=True)
    return logprobs, entropy


def response_logits(
    model: nn.Module, responses: Responses, *, temperature: float | int = 1.0
) -> Float[Tensor, "B T V"]:
    """The logits that each response token was chosen from, divided by the temperature.

    For what needs the whole distribution, such as the exact KL of a token. All 0 where
    ``response_mask`` is False, so that two models agree there. It takes B·T·V numbers.

    Raises ValueError for a temperature that is not above 0.

    Book: 12_text_as_mdp, 16_kl.
    """
    _check_temperature(temperature)
    scored = _scored(responses)
    mask = responses.sequence_mask
    states, head = _predictions(model, responses.sequence_ids, mask, position_ids(mask), scored)
    chosen = _at_least_float32(head(states)) / temperature
    logits = chosen.new_zeros(*responses.response_mask.shape, chosen.shape[-1])
    return logits.index_put(responses.response_mask.nonzero(as_tuple=True), chosen)


def token_logprobs(
    model: nn.Module,
    ids: Int[Tensor, "B L"],
    mask: Bool[Tensor, "B L"] | Bool[Tensor, "B 1 L L"],
    positions: Int[Tensor, "B L"],
    scored: Bool[Tensor, "B L"],
) -> Float[Tensor, "B L"]:
    """Log-probability of each token that is ``scored``, given those before it; 0 elsewhere.

        log π(ids[b, t] | what row b may look at from t-1)

    Args:
        ids: whole texts, one per row, or several.
        mask, positions: as for ``backbone.hidden_states``. Several texts in a row need a mask
            [B, 1, L, L] that keeps them apart, and positions that begin again at 0.
        scored: True for the tokens wanted. Nothing predicts the first token of a text.

    Raises ValueError where the first token of a text (position 0) is scored (which row).

    Book: 13_sft.
    """
    first = (scored & (positions == 0)).any(dim=1)
    if first.any():
        raise ValueError(
            f"row {int(first.nonzero()[0])} scores the first token of a text, which nothing "
            "predicts: set scored to False there"
        )
    return _scores(model, ids, mask, positions, scored, temperature=1.0, with_entropy=False)[0]


def _response_scores(
    model: nn.Module, responses: Responses, temperature: float | int, with_entropy: bool
) -> Float[Tensor, "n B T"]:
    _check_temperature(temperature)
    mask = responses.sequence_mask
    scores = _scores(
        model,
        responses.sequence_ids,
        mask,
        position_ids(mask),
        _scored(responses),
        temperature=temperature,
        with_entropy=with_entropy,
    )
    return scores[:, :, responses.prompt_ids.shape[1] :]


def _scored(responses: Responses) -> Bool[Tensor, "B L"]:
    """The response tokens, within prompt and response side by side."""
    return torch.cat([responses.prompt_mask & False, responses.response_mask], dim=1)


def _predictions(
    model: nn.Module,
    ids: Int[Tensor, "B L"],
    mask: Bool[Tensor, "B L"] | Bool[Tensor, "B 1 L L"],
    positions: Int[Tensor, "B L"],
    scored: Bool[Tensor, "B L"],
) -> tuple[Float[Tensor, "M d"], nn.Module]:
    """THE shift: what the model made of the position before each scored token, and its head.

    Row m of the first, put through the second, gives the logits that predict the m-th scored
    token (in row-major order).
    """
    predicts = scored[:, 1:]  # the output at column t-1 predicts column t
    head = output_head(model)
    if head is not None:
        return hidden_states(model, ids, mask, positions)[:, :-1][predicts], head
    columns = predicts.any(dim=0).nonzero()
    first = int(columns[0]) if len(columns) else predicts.shape[1]
    logits = model(
        input_ids=ids,
        attention_mask=body_mask(mask, next(model.parameters()).dtype),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=ids.shape[1] - first,
    ).logits
    return logits[:, :-1][predicts[:, first:]], nn.Identity()


def _scores(
    model: nn.Module,
    ids: Int[Tensor, "B L"],
    mask: Bool[Tensor, "B L"] | Bool[Tensor, "B 1 L L"],
    positions: Int[Tensor, "B L"],
    scored: Bool[Tensor, "B L"],
    *,
    temperature: float | int,
    with_entropy: bool,
) -> Float[Tensor, "n B L"]:
    """Log-probability (and entropy) of the scored tokens, piece by piece; 0 elsewhere."""
    states, head = _predictions(model, ids, mask, positions, scored)
    targets = ids[scored]
    V = states.shape[-1] if isinstance(head, nn.Identity) else head.weight.shape[0]
    rows = max(PIECE // V, 1)
    recompute = len(targets) > rows and torch.is_grad_enabled()
    pieces = []
    for piece in zip(states.split(rows), targets.split(rows), strict=True):
        arguments = (head, *piece, temperature, with_entropy)
        if recompute:
            pieces.append(
                checkpoint(_piece, *arguments, use_reentrant=False, preserve_rng_state=False)
            )
        else:
            pieces.append(_piece(*arguments))
    found = torch.cat(pieces, dim=1)
    everywhere = found.new_zeros(len(found), *ids.shape)
    return everywhere.masked_scatter(scored.expand_as(everywhere), found)


def _piece(
    head: nn.Module,
    states: Float[Tensor, "M d"],
    targets: Int[Tensor, " M"],
    temperature: float | int,
    with_entropy: bool,
) -> Float[Tensor, "n M"]:
    """A gather and a logsumexp: log π of the targets; and the entropy as a second row."""
    logits = _at_least_float32(head(states))
    if temperature != 1:
        logits = logits / temperature
    total = logits.logsumexp(dim=-1)
    logprobs = logits.gather(1, targets[:, None])[:, 0] - total
    if not with_entropy:
        return logprobs[None]
    pi = (logits - total[:, None]).exp()
    expected = (pi * logits.masked_fill(pi == 0, 0.0)).sum(dim=-1)  # 0 · log 0 = 0
    return torch.stack([logprobs, total - expected])


def _at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_temperature(temperature: float | int) -> None:
    if not temperature > 0:
        raise ValueError(
            f"temperature={temperature} must be above 0; score greedy responses at temperature 1"
        )
