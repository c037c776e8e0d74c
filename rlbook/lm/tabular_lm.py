"""An enumerable language model: one row of logits for every text it can meet.

``TabularLM`` reads and answers like a causal language model of transformers, so whatever samples
from, scores or trains GPT-2 does the same with it. But its texts can be listed
(rlbook/lm/text_space.py), so that every expectation over texts is a finite sum
(rlbook/lm/exact.py) and generation is a decision process that Part I can solve
(rlbook/lm/token_mdp.py).

Letters: B rows of a batch, L columns, T response tokens, V vocabulary, S states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlbook.lm.batch import pad_left, position_ids
from rlbook.lm.text_space import TextSpace


@dataclass(frozen=True)
class TabularConfig:
    """What others ask a causal language model about itself, under transformers' names."""

    vocab_size: int
    eos_token_id: int | None
    pad_token_id: int
    max_position_embeddings: int


class TokenCache:
    """What this model remembers of a text: its ids. It grows in place, as transformers' caches do.

    Book: 11_generation.
    """

    def __init__(self) -> None:
        self.ids: Int[Tensor, "B L"] | None = None

    def append(self, ids: Int[Tensor, "B Q"]) -> Int[Tensor, "B L"]:
        """Add columns at the end; returns all of them."""
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=1)
        return self.ids

    def get_seq_length(self) -> int:
        """Number of columns, padding included."""
        return 0 if self.ids is None else self.ids.shape[1]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times, the copies next to one another."""
        self.ids = self.ids.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only the rows with these numbers (or where this is True), in this order."""
        self.ids = self.ids[indices]


@dataclass(frozen=True, eq=False)
class TabularOutput:
    """Logits of the next token [B, L, V] and, if a cache was asked for or given, the cache."""

    logits: Float[Tensor, "B L V"]
    past_key_values: TokenCache | None


class TabularLM(nn.Module):
    """A language model that is a table of logits [S, V], one row per prompt x and prefix y_<t.

        π(y_t = a | x, y_<t) = softmax(table[state(x, y_<t)])_a

    Args:
        prompts: the texts it can be asked, as token ids; none may begin with another.
        vocab_size: V, at least 2. Prompts and responses share it.
        max_new_tokens: T, the length limit. Without an EOS every response has exactly T tokens.
        eos_id: the token that ends a response, or None.
        pad_id: what fills rows up. Default: the EOS, as with GPT-2, or 0 without one.
        generator: draws the logits from N(0, scale²). Default: all 0, a uniform policy.
        scale: standard deviation of the logits.
        dtype: float64 by default, because exactness is what this model is for.

    Attributes:
        table: the only parameter [S, V].
        space: the ``TextSpace``: prompts, prefixes, responses, and the numbers of the states.
        config: vocab_size, eos_token_id, pad_token_id, max_position_embeddings.

    Raises:
        ValueError: no prompt, an empty one, or one that begins with another; an id outside the
            vocabulary; more than a million responses.

    Book: 12_text_as_mdp.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        vocab_size: int,
        max_new_tokens: int,
        eos_id: int | None = None,
        pad_id: int | None = None,
        generator: torch.Generator | None = None,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        prompts = tuple(tuple(int(token) for token in prompt) for prompt in prompts)
        self.space = TextSpace(prompts, vocab_size, max_new_tokens, eos_id)
        if pad_id is None:
            pad_id = 0 if eos_id is None else eos_id
        if not 0 <= pad_id < vocab_size:
            raise ValueError(f"pad_id={pad_id} is not a token: ids go from 0 to {vocab_size - 1}")
        longest = max(map(len, prompts)) + max_new_tokens
        self.config = TabularConfig(vocab_size, eos_id, pad_id, longest)
        shape = (len(self.space), vocab_size)
        table = torch.zeros(shape, dtype=dtype)
        if generator is not None:
            noise = torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
            table = scale * noise
        self.table = nn.Parameter(table)

    @classmethod
    def fixed_length(
        cls,
        generator: torch.Generator,
        *,
        prompts: Sequence[Sequence[int]] = ((0,),),
        vocab_size: int = 3,
        max_new_tokens: int = 3,
    ) -> "TabularLM":
        """Every response has T tokens: with V = 3 and T = 3, 13 states and 27 responses."""
        return cls(
            prompts, vocab_size=vocab_size, max_new_tokens=max_new_tokens, generator=generator
        )

    @classmethod
    def with_eos(
        cls,
        generator: torch.Generator,
        *,
        prompts: Sequence[Sequence[int]] = ((0,),),
        vocab_size: int = 3,
        max_new_tokens: int = 3,
    ) -> "TabularLM":
        """Responses end in the last token of the vocabulary, or at the limit: with V = 3 and
        T = 3, 7 states and 15 responses, 8 of them cut off. Padding is the EOS, as in GPT-2."""
        return cls(
            prompts,
            vocab_size=vocab_size,
            max_new_tokens=max_new_tokens,
            eos_id=vocab_size - 1,
            generator=generator,
        )

    def like(self, table: Float[Tensor, "S V"] | None = None) -> "TabularLM":
        """Another model of the same texts with these logits, or with a copy of its own: a
        reference that stays where it is while this one learns.

        Raises ValueError for a table of another shape.
        """
        table = self.table if table is None else table
        if table.shape != self.table.shape:
            raise ValueError(
                f"the table has shape {tuple(table.shape)}; these texts need one of shape "
                f"[S, V] = {tuple(self.table.shape)}"
            )
        other = TabularLM(
            self.space.prompts,
            vocab_size=self.space.vocab_size,
            max_new_tokens=self.space.max_new_tokens,
            eos_id=self.space.eos_id,
            pad_id=self.config.pad_token_id,
        )
        other.table = nn.Parameter(table.detach().clone())
        return other

    def tabulate(self, model: nn.Module) -> "TabularLM":
        """Any causal language model over the same vocabulary, written down as a table.

        ``model`` is asked once for the next token after every prompt and prefix. So what is exact
        for a table (values, KL, the chance of every text) is exact for a small GPT-2 too.

        Raises ValueError if it has another vocabulary.

        Book: 12_text_as_mdp.
        """
        texts = [x + prefix for x in self.space.prompts for prefix in self.space.prefixes]
        ids, mask = (x.to(self.table.device) for x in pad_left(texts, self.config.pad_token_id))
        with torch.no_grad():
            output = model(
                input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask)
            )
        logits = output.logits[:, -1]
        if logits.shape[-1] != self.space.vocab_size:
            raise ValueError(
                f"the model chooses among {logits.shape[-1]} tokens, the table among "
                f"{self.space.vocab_size}: both need the same vocabulary"
            )
        return self.like(logits.to(self.table.dtype))

    def forward(
        self,
        input_ids: Int[Tensor, "B Q"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: TokenCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
    ) -> TabularOutput:
        """Logits of the next token after each of the Q new columns, as transformers' models do.

        Where the table has no state (padding, an unfinished prompt, after an EOS or at the limit)
        the logits are 0, without gradient.

        Args:
            input_ids: [B, Q]; with a cache, the columns that it does not hold yet.
            attention_mask: [B, L], 1 for tokens, over the cached and the new columns. Padding may
                stand left and right of a text. Default: no padding.
            position_ids: of the new columns. The table does not need them, but checks them.
            past_key_values: a cache returned earlier; it grows in place.
            use_cache: return a cache.
            logits_to_keep: only the last so many columns (0: all), or the columns of these numbers.

        Raises:
            ValueError: what ``TextSpace.states`` raises: unknown prompts, too long a response, ...
        """
        cache = TokenCache() if past_key_values is None and use_cache else past_key_values
        ids = input_ids if cache is None else cache.append(input_ids)
        states = self.space.states(ids, attention_mask, position_ids)[:, -input_ids.shape[1] :]
        if isinstance(logits_to_keep, Tensor):
            states = states[:, logits_to_keep]
        elif logits_to_keep:
            states = states[:, -logits_to_keep:]
        logits = torch.where(states[..., None] >= 0, self.table[states.clamp(min=0)], 0.0)
        return TabularOutput(logits, cache)
