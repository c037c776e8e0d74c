"""The loop behind ``sample_responses``: prefill, expand, decode, compact.

    prefill     every distinct prompt is read once, left-padded beside the others; the book's GPT-2
                does not read for itself a prompt that another one begins with
    expand      what the model remembers of it (its cache) is handed to each of its K samples
    decode      one token per row and step: choose it, read it, get the next logits
    compact     rows that have ended are dropped, in portions

Who reads is a matter of the model: GPT-2 is read by the book's own forward with its static cache
(``_GPT2Reader``), other models by theirs (``_Reader``), and a model whose cache cannot be handed
on row by row is left to transformers' ``generate``, with the same choices.

Letters: N distinct prompts, B rows, P prompt tokens, T response tokens, V vocabulary.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from rlbook.lm import gpt2
from rlbook.lm.backbone import unwrapped
from rlbook.lm.batch import position_ids

# Dropping rows copies the memory of the others, so it waits until this part of them has ended ...
DROP_FROM = 0.25
# ... and asking an accelerator whether rows have ended makes it wait, so ask every few steps.
ASK_EVERY = 8

# (logits [b, V], step t, numbers of the rows that are left or None for all) -> tokens, log-probs
Choose = Callable[
    [Float[Tensor, "b V"], int, Int[Tensor, " b"] | None],
    tuple[Int[Tensor, " b"], Float[Tensor, " b"]],
]


def decode(
    model: nn.Module,
    prompt_ids: Int[Tensor, "N P"],
    prompt_mask: Bool[Tensor, "N P"],
    prompt_of_row: Int[Tensor, " B"],
    choose: Choose,
    *,
    limits: Int[Tensor, " B"],
    ends: Int[Tensor, " E"],
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Int[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Tokens and their log-probabilities, row by row until one of ``ends`` or the row's limit.

    What stands after a row's end is arbitrary.

    Args:
        prompt_ids, prompt_mask: distinct prompts, left-padded.
        prompt_of_row: which prompt each of the B rows continues.
        choose: picks a token per row from its logits.
        limits: the most tokens of each row; T is the largest.
        lengths: the row continues only so many first tokens of its prompt; for the book's GPT-2
            alone (``read_within``). Default: all of them.

    Book: 11_generation.
    """
    max_new_tokens = int(limits.max())
    with torch.no_grad():
        reader = _reader(model, prompt_mask, max_new_tokens)
        if lengths is not None:
            logits = reader.read_beginnings(prompt_ids, prompt_mask, prompt_of_row, lengths)
        elif reader is not None:
            logits = reader.read(prompt_ids, position_ids(prompt_mask))  # prefill
        if reader is None or not reader.can_select():
            arguments = prompt_ids[prompt_of_row], prompt_mask[prompt_of_row], choose
            return _by_transformers(model, *arguments, max_new_tokens, ends)
        positions = prompt_mask.sum(dim=1)[prompt_of_row] if lengths is None else lengths
        last = positions + limits - 1  # where a row's last token may stand
        if lengths is None and len(prompt_of_row) > len(prompt_ids):  # expand
            logits = logits[prompt_of_row]
            reader.select(prompt_of_row)
        record = _Record(max_new_tokens, len(prompt_of_row), logits)
        rows, ended = None, torch.zeros_like(positions, dtype=torch.bool)
        period = ask_every(logits.device)
        may_end = len(ends) > 0 or bool((limits < max_new_tokens).any())
        for t in range(max_new_tokens):
            tokens, logprobs = choose(logits, t, rows)
            record.write(t, rows, tokens, logprobs)
            if t + 1 == max_new_tokens:
                break
            ended |= torch.isin(tokens, ends) | (positions == last)
            if may_end and (t + 1) % period == 0:
                left = (~ended).nonzero()[:, 0]
                if len(left) == 0:
                    break
                if len(left) <= (1 - DROP_FROM) * len(ended):  # compact
                    rows = left if rows is None else rows[left]
                    tokens, positions, ended = tokens[left], positions[left], ended[left]
                    last = last[left]
                    reader.select(left)
            logits = reader.read(tokens[:, None], positions[:, None])
            positions = torch.minimum(positions + 1, last)  # a row that has ended may be read on
    return record.ids.T, record.logprobs.T


def read_within(model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The number of the prompt that each is read within: its own, that of an equal or longer one.

    The book's GPT-2 reads only prompts that no other begins with: (a), (a, b) and (a, b, c) take
    three tokens together. A beginning that is no prompt itself is not shared: (a, b) and (a, c)
    take four. Other models share equal prompts only. Of equal ones the first is read.

    Book: 20_vineppo.
    """
    nested = gpt2.is_plain_gpt2(model)
    within, last = list(range(len(prompts))), None
    # In the order of a dictionary, those that begin with a text come right after it.
    for i in sorted(within, key=prompts.__getitem__, reverse=True):
        if last is None or prompts[i] != prompts[last][: len(prompts[i]) if nested else None]:
            last = i
        within[i] = last
    return within


def prefilled_tokens(model: nn.Module, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens ``sample_responses`` reads of these prompts before it draws the first.

    Book: 20_vineppo.
    """
    return sum(len(prompts[i]) for i in set(read_within(model, prompts)))


def ask_every(device: torch.device) -> int:
    """After how many steps to look for rows that have ended."""
    return 1 if device.type == "cpu" else ASK_EVERY


class _Record:
    """The tokens chosen and their log-probabilities, [T, B] so that a step is one write."""

    def __init__(self, T: int, B: int, logits: Tensor) -> None:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.ids = torch.zeros(T, B, dtype=torch.long, device=logits.device)
        self.logprobs = torch.zeros(T, B, dtype=dtype, device=logits.device)

    def write(self, t: int, rows: Tensor | None, tokens: Tensor, logprobs: Tensor) -> None:
        where = t if rows is None else (t, rows)
        self.ids[where] = tokens
        self.logprobs[where] = logprobs


class _Reader:
    """Reads tokens with the model's own forward and cache."""

    def __init__(self, model: nn.Module, prompt_mask: Bool[Tensor, "N P"], T: int) -> None:
        self.model, self.cache = model, None
        self.mask = nn.functional.pad(prompt_mask, (0, T), value=True)
        self.is_padded = not bool(prompt_mask.all())
        self.length = 0

    def seen(self) -> Bool[Tensor, "B S"] | None:
        """Which of the columns so far are tokens; None for all, which saves a mask in each step."""
        return self.mask[:, : self.length] if self.is_padded else None

    def read(self, ids: Int[Tensor, "B L"], positions: Int[Tensor, "B L"]) -> Float[Tensor, "B V"]:
        """Read L more tokens of every row; the logits of what comes next."""
        self.length += ids.shape[1]
        output = self.model(
            input_ids=ids,
            attention_mask=self.seen(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if self.cache is None:
            self.cache = output.past_key_values
            _allocate_once(self.cache, self.mask.shape[1])
        return output.logits[:, -1]

    def can_select(self) -> bool:
        """Whether the cache, in all its layers, can be handed on row by row."""
        parts = [self.cache, *getattr(self.cache, "layers", [])]
        return all(hasattr(part, "batch_select_indices") for part in parts)

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Go on with these rows only; a row may be there several times."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]


class _Slots(DynamicLayer):
    """A layer of transformers' cache, in memory that is allocated once; theirs grows by copying."""

    def __init__(self, layer: DynamicLayer, slots: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.slots = slots
        self._allocate(layer.keys, layer.values)

    def _allocate(self, keys: Tensor, values: Tensor) -> None:
        """New memory, filled with these [B, heads, S, width]."""
        filled = keys.shape[2]
        self.memory = [x.new_empty(*x.shape[:2], self.slots, x.shape[3]) for x in (keys, values)]
        for memory, x in zip(self.memory, (keys, values), strict=True):
            memory[:, :, :filled] = x
        self.keys, self.values = (memory[:, :, :filled] for memory in self.memory)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        filled = self.keys.shape[2]
        end = filled + key_states.shape[2]
        for memory, new in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, filled:end] = new
        self.keys, self.values = (memory[:, :, :end] for memory in self.memory)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._allocate(self.keys.index_select(0, indices), self.values.index_select(0, indices))


def _allocate_once(cache: Any, slots: int) -> None:
    """Exchange the plain layers of transformers' cache; leave windows, states and others alone."""
    for i, layer in enumerate(getattr(cache, "layers", [])):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[i] = _Slots(layer, slots)


class _GPT2Reader(_Reader):
    """Reads tokens with the book's GPT-2."""

    def __init__(self, model: nn.Module, prompt_mask: Bool[Tensor, "N P"], T: int) -> None:
        super().__init__(model, prompt_mask, T)
        self.cache = gpt2.Cache(model, len(prompt_mask), self.mask.shape[1])

    def read(self, ids: Int[Tensor, "B L"], positions: Int[Tensor, "B L"]) -> Float[Tensor, "B V"]:
        self.length += ids.shape[1]
        return gpt2.forward(
            self.model,
            ids,
            position_ids=positions,
            attention_mask=self.seen(),
            cache=self.cache,
            keep=slice(-1, None),
        )[:, -1]

    def read_beginnings(
        self,
        ids: Int[Tensor, "N P"],
        mask: Bool[Tensor, "N P"],
        text_of_row: Int[Tensor, " B"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "B V"]:
        """Prefill and expand, where a row goes on from the first ``lengths`` tokens of its text.

        Keys and values of these do not depend on what follows. So the row gets those of the whole
        text, and a mask that hides the columns of the rest.
        """
        self.length = P = ids.shape[1]
        h = gpt2.hidden_states(
            self.model,
            ids,
            position_ids=position_ids(mask),
            attention_mask=self.seen(),
            cache=self.cache,
        )
        self.select(text_of_row)
        last = P - 1 - mask.sum(dim=1)[text_of_row] + lengths
        self.mask[:, :P] &= torch.arange(P, device=ids.device) <= last[:, None]
        self.is_padded = True
        return self.model.lm_head(h[text_of_row, last])

    def can_select(self) -> bool:
        return True

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        self.cache.select(rows)
        self.mask = self.mask[rows]


def _reader(model: nn.Module, prompt_mask: Bool[Tensor, "N P"], T: int) -> _Reader | None:
    """The reader for a model; None where its forward takes no cache that we know."""
    if gpt2.is_plain_gpt2(model):
        return _GPT2Reader(model, prompt_mask, T)
    takes = inspect.signature(unwrapped(model).forward).parameters
    known = "past_key_values" in takes and "position_ids" in takes
    return _Reader(model, prompt_mask, T) if known else None


def _by_transformers(
    model: nn.Module,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Bool[Tensor, "B P"],
    choose: Choose,
    max_new_tokens: int,
    ends: Int[Tensor, " E"],
) -> tuple[Int[Tensor, "B T"], Float[Tensor, "B T"]]:
    """The same with transformers' ``generate``, which knows the caches of all its models.

    The model's own generation config is set aside: it may hold penalties and truncations, which
    would come before our choice.
    """
    chooser = _Chooser(choose, max_new_tokens)
    theirs = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends.tolist() or None,
        pad_token_id=int(prompt_ids[0, -1]),  # any token will do
    )
    try:
        model.generate(
            prompt_ids,
            attention_mask=prompt_mask.long(),
            logits_processor=LogitsProcessorList([chooser]),
        )
    finally:
        model.generation_config = theirs
    return chooser.record.ids.T, chooser.record.logprobs.T


class _Chooser(LogitsProcessor):
    """Puts our choice into transformers' ``generate``: all other tokens are ruled out."""

    def __init__(self, choose: Choose, T: int) -> None:
        self.choose, self.T, self.t = choose, T, 0
        self.record: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.record is None:
            self.record = _Record(self.T, len(scores), scores)
        tokens, logprobs = self.choose(scores, self.t, None)
        self.record.write(self.t, None, tokens, logprobs)
        self.t += 1
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)
