"""Conversations as prompts: the book's templates, other people's, transcripts."""

import pytest
import torch
from small_models import char_tokenizer, tiny_gpt2
from transformers import AutoTokenizer, GPT2Tokenizer

from rlbook.lm.chat import (
    chat_prompt,
    chat_prompt_ids,
    parse_transcript,
    set_chat_template,
)
from rlbook.lm.policy import Policy, load_policy
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tokenizers import character_tokenizer

TALK = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello.\nyes?"},
    {"role": "user", "content": " who? "},
]
MARKED = "<|user|>hi<|assistant|>hello.\nyes?<|end|><|user|> who? <|assistant|>"
WORDED = "Human: hi\n\nAssistant: hello.\nyes?<eos>\n\nHuman:  who? \n\nAssistant:"


def marked():
    return character_tokenizer("abcdefghijklmnopqrstuvwxyz .?\n", context=64)


def test_marks_where_they_are_tokens_and_words_otherwise():
    assert chat_prompt(marked(), TALK) == MARKED
    assert chat_prompt(char_tokenizer(), TALK) == WORDED


def test_marks_and_ends_are_single_tokens():
    tokenizer = marked()
    ids = chat_prompt_ids(tokenizer, TALK)
    assert tokenizer.decode(ids) == MARKED
    marks = [i for i in ids if i < 5]
    assert tokenizer.convert_ids_to_tokens(marks) == [
        "<|user|>", "<|assistant|>", "<|end|>", "<|user|>", "<|assistant|>"
    ]  # fmt: skip
    assert Policy(tiny_gpt2(vocab=len(tokenizer)), tokenizer).encode([MARKED]) == [ids]


def test_the_prompts_of_replies_are_in_this_template():
    for problem in Replies().problems(20, torch.Generator().manual_seed(0)):
        said = problem.prompt.removeprefix("<|user|>").removesuffix("<|assistant|>")
        assert chat_prompt(marked(), [{"role": "user", "content": said}]) == problem.prompt


def test_words_suit_gpt2s_own_tokens(real_data):
    tokenizer = GPT2Tokenizer.from_pretrained(real_data / "gpt2-tokenizer")
    assert chat_prompt(tokenizer, TALK) == WORDED.replace("<eos>", "<|endoftext|>")
    assert tokenizer.eos_token_id in chat_prompt_ids(tokenizer, TALK)


def test_a_tokenizer_without_eos_writes_none():
    tokenizer = char_tokenizer()
    tokenizer.eos_token = None
    assert chat_prompt(tokenizer, TALK) == WORDED.replace("<eos>", "")


def test_a_tokenizers_own_template_wins():
    tokenizer = marked()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    assert chat_prompt(tokenizer, TALK[:1]) == "[hi]>"
    own = tokenizer.chat_template
    assert set_chat_template(tokenizer).chat_template == own


@pytest.mark.parametrize("make", [marked, char_tokenizer])
def test_the_template_is_saved_with_the_tokenizer(make, tmp_path):
    tokenizer = make()
    expected = chat_prompt(tokenizer, TALK)
    assert tokenizer.chat_template is None  # asking for a prompt changes nothing
    assert set_chat_template(tokenizer) is tokenizer
    folder = Policy(tiny_gpt2(vocab=len(tokenizer)), tokenizer).save(tmp_path / "policy")
    loaded = AutoTokenizer.from_pretrained(folder)
    by_hand = loaded.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert by_hand == expected
    assert chat_prompt(load_policy(folder, device="cpu").tokenizer, TALK) == expected


def test_a_whole_conversation_ends_in_eos():
    """As training wants it: no invitation to speak, and the assistant's EOS."""
    tokenizer = set_chat_template(marked())
    whole = tokenizer.apply_chat_template(TALK[:2], tokenize=False)
    assert whole == chat_prompt(tokenizer, TALK[:1]) + "hello.\nyes?<|end|>"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the last message is from nobody"),
        (TALK[:2], "the last message is from assistant: a prompt must end with the user's"),
        ([{"role": "user"}], "message 0 is .* needs 'role' and 'content'"),
        ([{"role": "system", "content": "x"}, TALK[0]], "refuses .* no role system"),
    ],
)
def test_what_is_no_prompt_is_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        chat_prompt(marked(), messages)


# --- transcripts -----------------------------------------------------------------------------


def test_transcripts_by_hand():
    text = "\n\nHuman: hi\n\nAssistant: hello.\nyes?\n\nHuman: what is a Human: here?"
    assert parse_transcript(text) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello.\nyes?"},
        {"role": "user", "content": "what is a Human: here?"},
    ]
    assert parse_transcript("Human: a\nAssistant:b")[1] == {"role": "assistant", "content": "b"}
    twice = parse_transcript("Human: a\n\nHuman: b")
    assert [message["content"] for message in twice] == ["a", "b"]


def test_an_invitation_to_speak_is_no_message():
    messages = parse_transcript("Human: hi\n\nAssistant:")
    assert messages == [{"role": "user", "content": "hi"}]
    assert chat_prompt(char_tokenizer(), messages) == "Human: hi\n\nAssistant:"


def test_a_transcript_comes_back_from_the_template():
    tokenizer = char_tokenizer()
    tokenizer.eos_token = None
    stripped = [message | {"content": message["content"].strip()} for message in TALK]
    assert parse_transcript(chat_prompt(tokenizer, stripped)) == stripped


@pytest.mark.parametrize("text", ["", "hello", "hello\n\nHuman: hi", "a Human: hi"])
def test_what_is_no_transcript_is_refused(text):
    with pytest.raises(ValueError, match="must begin with 'Human:'"):
        parse_transcript(text)
