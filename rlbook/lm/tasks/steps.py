"""From steps of a text to steps of its tokens.

A task says where its steps end, as character offsets. A policy's actions are tokens, and a token
of a byte-pair encoding may straddle the end of a step. The rule:

    a token belongs to the step of its first character

so a token that straddles a boundary belongs to the earlier step. (Where tokens begin with a
space, as GPT-2's do, let a boundary come before the space, or it will be straddled.) A token that
opens in the middle of a character (its bytes are split among tokens) counts from that character.
EOS belongs to the last step. A step whose every character lies in tokens of earlier steps has no
token; the steps that have some are numbered 0, 1, 2, ... without gaps.
"""

import bisect
import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlbook.lm.batch import Responses

Decode = Callable[[list[int]], str]


def token_starts(ids: Sequence[int], decode: Decode) -> list[int]:
    """The offset of each token's first character in the decoded text.

    Found by decoding: token by token where these pieces join to the text, else prefix by
    prefix (characters split among tokens; tokenizers that treat the first token differently).

    Args:
        ids: the token ids of one response.
        decode: as ``policy.decode``: ids to text, special tokens left out.
    """
    ids = [int(i) for i in ids]
    text = decode(ids)
    pieces = [decode([i]) for i in ids]
    if "".join(pieces) == text:
        ends = torch.tensor([0, *map(len, pieces)]).cumsum(0).tolist()
    else:
        ends = [0]
        for count in range(1, len(ids) + 1):
            prefix = decode(ids[:count])
            # an unfinished character decodes to a replacement mark, which the text has not
            ends.append(max(ends[-1], _common_prefix(prefix, text)))
    return ends[:-1]


def token_steps(starts: Sequence[int], boundaries: Sequence[int]) -> list[int]:
    """The step of each token: how many boundaries its first character has passed.

    Args:
        starts: offset of each token's first character, never falling.
        boundaries: offsets just after each step, rising; the last is the text's length.

    Raises:
        ValueError: boundaries that are empty or do not rise.
    """
    boundaries = list(boundaries)
    if not boundaries or any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise ValueError(f"step boundaries {boundaries} must rise, the last at the text's end")
    inner = boundaries[:-1]
    steps = [bisect.bisect_right(inner, start) for start in starts]
    number = {step: i for i, step in enumerate(sorted(set(steps)))}
    return [number[step] for step in steps]


def step_index(
    responses: Responses, decode: Decode, step_boundaries: Callable[[str], list[int]]
) -> Int[Tensor, "B T"]:
    """The step of each response token, counted from 0 in its row; -1 where the mask is False.

    Args:
        responses: with their texts; B of them, T tokens at most.
        decode: ``policy.decode``.
        step_boundaries: ``task.step_boundaries``.

    Raises:
        ValueError: boundaries that do not rise or do not end with the text (which response).

    Book: 20_vineppo.
    """
    index = torch.full(responses.response_ids.shape, -1, dtype=torch.long)
    ids, lengths = responses.response_ids.tolist(), responses.lengths.tolist()
    for row, (tokens, length) in enumerate(zip(ids, lengths, strict=True)):
        text = responses.texts[row]
        boundaries = step_boundaries(text)
        if list(boundaries[-1:]) != [len(text)]:
            raise ValueError(
                f"response {row}: step boundaries {boundaries} must end with {len(text)}, the "
                "length of its text"
            )
        steps = token_steps(token_starts(tokens[:length], decode), boundaries)
        index[row, :length] = torch.tensor(steps, dtype=torch.long)
    return index.to(responses.response_ids.device)


def step_ends(index: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the last token of each step, given ``step_index``."""
    following = torch.nn.functional.pad(index[:, 1:], (0, 1), value=-1)
    return following != index  # padding is a suffix of -1, and so equals what follows it


def _common_prefix(prefix: str, text: str) -> int:
    """How many characters the two begin with alike."""
    if text.startswith(prefix):
        return len(prefix)
    pairs = zip(prefix, text, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prefix), len(text)))
