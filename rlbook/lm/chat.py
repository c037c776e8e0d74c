"""A conversation as a prompt: the chat template.

A language model continues text; that a text is a conversation, and whose turn it is, has to stand
in it. How is a convention, the *chat template*, and a model answers well only in the one it was
tuned with. Tokenizers carry theirs as ``tokenizer.chat_template``, in Jinja, and it is saved with
them. For a tokenizer without one there are the book's two:

    MARKS   <|user|>hi<|assistant|>hello<|end|>               where the two marks are tokens
    WORDS   Human: hi⏎⏎Assistant: hello<|endoftext|>⏎⏎        otherwise, as for GPT-2

What the assistant says ends in EOS, in the past as in the future: it is how a policy says that it
has finished.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlbook.lm.tokenizers import ASSISTANT, USER

Message = dict[str, str]  # {"role": "user" or "assistant", "content": what was said}

_TURNS = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{ USER }}
{%- elif message['role'] == 'assistant' -%}{{ ASSISTANT }}
{%- else -%}{{ raise_exception('this template has no role ' + message['role']) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ASK }}{%- endif -%}"""


def _template(user: str, assistant: str, ask: str) -> str:
    filled = _TURNS.replace("{{ USER }}", user).replace("{{ ASSISTANT }}", assistant)
    return filled.replace("{{ ASK }}", ask)


_CONTENT, _EOS = "{{ message['content'] }}", "{{ eos_token or '' }}"
MARKS = _template(USER + _CONTENT, ASSISTANT + _CONTENT + _EOS, ASSISTANT)
WORDS = _template(
    "Human: " + _CONTENT + "{{ '\\n\\n' }}",
    "Assistant: " + _CONTENT + _EOS + "{{ '\\n\\n' }}",
    "Assistant:",
)


def set_chat_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a tokenizer the book's template if it has none, so that it is saved with it.

    Returns:
        The same tokenizer. One that has a template keeps it.

    Book: 13_sft.
    """
    tokenizer.chat_template = _chat_template(tokenizer)
    return tokenizer


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """A conversation that ends with the user, as the text that the assistant is to continue.

        chat_prompt(tokenizer, [{"role": "user", "content": "hi"}])  ->  "<|user|>hi<|assistant|>"

    By the tokenizer's own template, or else the book's (see the head of this file). After WORDS a
    reply begins with a space.

    Raises:
        ValueError: no messages, one without role or content, the last one not the user's; a role
            or an order that the template refuses.

    Book: 13_sft.
    """
    for i, message in enumerate(messages):
        if not {"role", "content"} <= set(message):
            raise ValueError(f"message {i} is {message}: it needs 'role' and 'content'")
    if not messages or messages[-1]["role"] != "user":
        last = messages[-1]["role"] if messages else "nobody"
        raise ValueError(f"the last message is from {last}: a prompt must end with the user's")
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            chat_template=_chat_template(tokenizer),
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as problem:  # Jinja's own class; Jinja comes with transformers only
        if type(problem).__module__.partition(".")[0] != "jinja2":
            raise
        raise ValueError(f"the chat template refuses these messages: {problem}") from problem


def chat_prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """``chat_prompt`` as token ids: what the template says and no second BOS before it."""
    return tokenizer(chat_prompt(tokenizer, messages), add_special_tokens=False)["input_ids"]


def parse_transcript(text: str) -> list[Message]:
    """A written-out conversation as messages.

        Human: hi                    [{"role": "user", "content": "hi"},
                             ->
        Assistant: hello              {"role": "assistant", "content": "hello"}]

    ``Human:`` and ``Assistant:`` count at the beginning of a line only; what follows, over several
    lines too, is said by that speaker. An ``Assistant:`` with nothing after it, at the end, is an
    invitation to speak and no message.

    Raises:
        ValueError: text before the first speaker, or no speaker at all.

    Book: 14_reward_model. Source: the form of Bai et al. (2022), "Training a Helpful and Harmless
    Assistant with RLHF", and its data.
    """
    before, *turns = re.split(r"^[ \t]*(Human|Assistant):", text, flags=re.MULTILINE)
    if before.strip() or not turns:
        raise ValueError(
            f"this transcript begins with {text.strip()[:40]!r}: it must begin with 'Human:' or "
            "'Assistant:'"
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(turns[::2], turns[1::2], strict=True)
    ]
    if messages[-1] == {"role": "assistant", "content": ""}:
        del messages[-1]
    return messages


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str | dict[str, str]:
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    vocabulary = tokenizer.get_vocab()
    return MARKS if USER in vocabulary and ASSISTANT in vocabulary else WORDS
