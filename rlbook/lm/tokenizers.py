"""A tokenizer whose tokens are single characters, as an ordinary Hugging Face tokenizer.

The book's small models read arithmetic, grid paths, symbols: a few dozen characters. One
character, one token is easy to look at, and no token straddles the end of a step.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unk|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (END, PAD, UNKNOWN, USER, ASSISTANT)  # their ids are 0 ... 4


def character_tokenizer(
    characters: str, *, context: int, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer for texts made of the given characters.

    Ids 0 to 4 are ``<|end|>`` (end of sequence), ``<|pad|>``, ``<|unk|>``, ``<|user|>`` and
    ``<|assistant|>``; the characters follow, in code-point order, each once. A character that is
    not among them becomes ``<|unk|>``. The names of the five in a text are read as these tokens,
    and decoding with ``skip_special_tokens=True`` leaves them out. ``save_pretrained`` writes
    plain JSON.

    Args:
        characters: that texts may hold, in any order; repetitions do not matter.
        context: the longest text in tokens that the model takes (``model_max_length``).
        chat_template: Jinja, see ``rlbook.lm.chat``.

    Raises ValueError if there are no characters.

    Book: 10_gpt2, 13_sft.
    """
    if not characters:
        raise ValueError("a tokenizer needs characters: name those that the texts are made of")
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *sorted(set(characters))))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # newlines too
    core.decoder = decoders.Fuse()
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer
