"""The character tokenizer: one character, one token, and an ordinary Hugging Face folder."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlbook.lm.chat import MARKS
from rlbook.lm.tokenizers import SPECIAL, character_tokenizer

CHARACTERS = "+-=.ab \n1"
TOKENIZER = character_tokenizer(CHARACTERS, context=32)


def ids(text: str, tokenizer=TOKENIZER) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_ids_by_hand():
    """5 special tokens, then the characters in code-point order: \\n ' ' + - . 1 = a b."""
    assert SPECIAL == ("<|end|>", "<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>")
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3, 4]
    assert ids("\n +-.1=ab") == [5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert len(TOKENIZER) == TOKENIZER.vocab_size == 14


@given(st.text(CHARACTERS))
def test_every_text_comes_back_one_token_per_character(text):
    assert len(ids(text)) == len(text)
    assert TOKENIZER.decode(ids(text)) == text


def test_a_text_is_not_changed_by_what_it_is_encoded_with():
    """Nothing is put before or after it; spaces and repetitions stay."""
    assert TOKENIZER("a  b")["input_ids"] == ids("a  b") == [12, 6, 6, 13]


def test_special_tokens_are_one_token_and_are_left_out_of_a_decoded_text():
    sentence = ids("<|user|>a<|assistant|>b<|end|>")
    assert sentence == [3, 12, 4, 13, 0]
    assert TOKENIZER.decode([*sentence, 1], skip_special_tokens=True) == "ab"
    assert TOKENIZER.decode(sentence) == "<|user|>a<|assistant|>b<|end|>"


def test_an_unknown_character_is_seen_to_be_unknown():
    assert ids("aéb") == [12, 2, 13]
    assert TOKENIZER.unk_token_id == 2


def test_eos_pad_and_context_are_known():
    assert (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (0, 1)
    assert TOKENIZER.bos_token_id is None
    assert TOKENIZER.model_max_length == 32
    batch = TOKENIZER(["a", "ab"], padding=True)
    assert batch["input_ids"] == [[1, 12], [12, 13]]  # on the left, for generation


def test_the_folder_is_plain_json_that_transformers_reads(tmp_path):
    tokenizer = character_tokenizer(CHARACTERS, context=32, chat_template=MARKS)
    tokenizer.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|user|>a b\n<|assistant|>é"
    assert ids(text, again) == ids(text) and again.decode(ids(text)) == TOKENIZER.decode(ids(text))
    assert again.chat_template == MARKS and len(again) == 14
    for name in ("eos_token_id", "pad_token_id", "unk_token_id", "model_max_length"):
        assert getattr(again, name) == getattr(TOKENIZER, name)


def test_characters_may_come_in_any_order_and_twice():
    assert character_tokenizer("ba1ab", context=8).get_vocab() == (
        character_tokenizer("1ab", context=8).get_vocab()
    )


def test_a_tokenizer_without_characters_is_refused():
    with pytest.raises(ValueError, match="needs characters"):
        character_tokenizer("", context=8)
