import functools

import pytest
import torch
from transformers import GPT2TokenizerFast

from rlbook.lm.batch import Responses
from rlbook.lm.tasks.arithmetic import Arithmetic
from rlbook.lm.tasks.gsm8k import GSM8K
from rlbook.lm.tasks.steps import step_ends, step_index, token_starts, token_steps
from rlbook.lm.tokenizers import character_tokenizer


def decoder(tokenizer):
    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return decode


def pieces(*tokens):
    """Decode for a vocabulary of these pieces, joined as they are; id -1 is EOS."""
    return lambda ids: "".join(tokens[i] for i in ids if i >= 0)


def as_responses(rows, texts):
    """Right-padded responses with ids that stand under False masks filled with 0."""
    T = max(map(len, rows))
    mask = torch.tensor([[t < len(r) for t in range(T)] for r in rows])
    ids = torch.tensor([list(r) + [0] * (T - len(r)) for r in rows])
    ones = torch.ones(len(rows), 1, dtype=torch.long)
    return Responses(ones, ones.bool(), ids, mask, torch.zeros(len(rows), T), texts)


load = functools.cache(GPT2TokenizerFast.from_pretrained)


@pytest.fixture
def gpt2_tokenizer(real_data):
    return load(real_data / "gpt2-tokenizer")


# --- the rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "boundaries", "steps"),
    [
        (["ab", "c;", "d"], [4, 5], [0, 0, 1]),
        (["ab", "c;d", "e"], [4, 6], [0, 0, 1]),  # "c;d" straddles: the earlier step
        (["ab;", "", "cd"], [3, 5], [0, 1, 1]),  # a token of no character stands before "cd"
        (["a;b;c", "d"], [2, 4, 6], [0, 1]),  # the step "b;" has no token of its own
        (["a;b;", "c"], [2, 4, 5], [0, 1]),
        (["abc"], [3], [0]),
        ([], [0], []),
    ],
)
def test_token_steps_by_hand(tokens, boundaries, steps):
    starts = token_starts(range(len(tokens)), pieces(*tokens))
    assert token_steps(starts, boundaries) == steps


def test_eos_belongs_to_the_last_step():
    starts = token_starts([0, 1, -1], pieces("ab;", "cd"))
    assert starts == [0, 3, 5]
    assert token_steps(starts, [3, 5]) == [0, 1, 1]
    assert token_steps(token_starts([-1], pieces()), [0]) == [0]  # an empty answer: one step


def test_boundaries_that_do_not_rise():
    for bad in ([], [3, 3], [4, 2]):
        with pytest.raises(ValueError, match="must rise"):
            token_steps([0, 1], bad)


def test_a_character_split_among_tokens():
    """Two tokens of half a character each: both stand where the character stands."""

    def decode(ids):
        return b"".join([b"a;", "é".encode()[:1], "é".encode()[1:], b"b"][i] for i in ids).decode(
            errors="replace"
        )

    assert token_starts([0, 1, 2, 3], decode) == [0, 2, 2, 3]
    assert token_steps([0, 2, 2, 3], [2, 4]) == [0, 1, 1, 1]


def test_a_tokenizer_whose_first_token_loses_its_space():
    """As sentencepiece does: alone, "▁b" decodes to "b", after another token to " b"."""
    words = ["a", "b", "c"]
    starts = token_starts([0, 1, 2], lambda ids: " ".join(words[i] for i in ids))
    assert starts == [0, 1, 3]  # "a", " b", " c"


# --- batches ---------------------------------------------------------------------------------


def test_step_index_and_ends_by_hand():
    decode = pieces("3+5=8", ";", "8-4=4.", "4.")
    texts = ["3+5=8;8-4=4.", "4."]
    responses = as_responses([[0, 1, 2, -1], [3, -1]], texts)
    index = step_index(responses, decode, Arithmetic().step_boundaries)
    assert index.tolist() == [[0, 0, 1, 1], [0, 0, -1, -1]]
    assert step_ends(index).tolist() == [[False, True, False, True], [False, True, False, False]]


def test_step_index_with_the_book_s_tokenizer():
    task = Arithmetic()
    tokenizer = character_tokenizer(task.characters, context=64)
    pairs = task.demonstrations(20, torch.Generator().manual_seed(0))
    texts = [text for _, text in pairs]
    rows = [[*tokenizer(t, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for t in texts]  # fmt: skip
    index = step_index(as_responses(rows, texts), decoder(tokenizer), task.step_boundaries)
    for i, text in enumerate(texts):
        expected = [text[:t].count(";") for t in range(len(text))]
        assert index[i, : len(text)].tolist() == expected
        assert index[i, len(text)] == expected[-1]  # EOS
        assert (index[i, len(text) + 1 :] == -1).all()
    ends = step_ends(index)
    assert ends.sum(1).tolist() == [text.count(";") + 1 for text in texts]


def test_bad_boundaries_name_the_response():
    responses = as_responses([[0], [0]], ["ab", "ab"])
    with pytest.raises(ValueError, match=r"response 0: step boundaries \[1\] must end with 2"):
        step_index(responses, pieces("ab"), lambda text: [1])


# --- GPT-2's byte-pair encoding --------------------------------------------------------------


def test_gpt2_starts_equal_its_own_offsets(gpt2_tokenizer):
    for text in ("Weng earns $12 an hour.\nSo 12/60 = 0.2\n#### 10", "a  b\n\n\tc", "Hello world"):
        encoded = gpt2_tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        starts = token_starts(encoded["input_ids"], decoder(gpt2_tokenizer))
        offsets = [start for start, _ in encoded["offset_mapping"]]
        # the library's offsets may leave the space before a word out; ours never do
        assert all(a in (b, b - 1) for a, b in zip(starts, offsets, strict=True))
        joined = [gpt2_tokenizer.decode([i]) for i in encoded["input_ids"]]
        assert starts == [len("".join(joined[:k])) for k in range(len(joined))]


def test_gpt2_splits_characters_of_several_bytes(gpt2_tokenizer):
    text = "naïve 数学\n猫 = 🐱\n#### 1"
    ids = gpt2_tokenizer(text, add_special_tokens=False)["input_ids"]
    decode = decoder(gpt2_tokenizer)
    assert len(ids) > len(text) * 0.8 and any("\ufffd" in decode([i]) for i in ids)
    starts = token_starts(ids, decode)
    assert starts == sorted(starts) and starts[0] == 0 and max(starts) < len(text)
    # by bytes: a token opens in the character that holds its first byte
    byte_pieces = [len(token) for token in gpt2_tokenizer.convert_ids_to_tokens(ids)]
    holder = [i for i, character in enumerate(text) for _ in character.encode()]
    opens = [0]
    for length in byte_pieces[:-1]:
        opens.append(opens[-1] + length)
    assert starts == [holder[byte] for byte in opens]


def test_gpt2_steps_of_a_worked_solution(gpt2_tokenizer):
    task = GSM8K([("q", "#### 1"), ("r", "#### 1")])
    text = "Weng earns 12/60 = $0.2 per minute.\nWorking 50 minutes, she earned $10.\n#### 10"
    ids = [*gpt2_tokenizer(text)["input_ids"], gpt2_tokenizer.eos_token_id]
    responses = as_responses([ids], [text])
    decode = decoder(gpt2_tokenizer)
    index = step_index(responses, decode, task.step_boundaries)[0].tolist()
    first = [i for i, step in zip(ids, index, strict=True) if step == 0]
    assert decode(first) == "Weng earns 12/60 = $0.2 per minute.\n"
    assert set(index) == {0, 1} and index[-1] == 1


def test_gpt2_tokens_that_straddle_go_to_the_earlier_step(gpt2_tokenizer):
    text = "aaa;;bbb"  # ";;" is one token; the second step begins within it
    ids = gpt2_tokenizer(text)["input_ids"]
    decode = decoder(gpt2_tokenizer)
    assert ";;" in [decode([i]) for i in ids]
    index = step_index(as_responses([ids], [text]), decode, lambda text: [4, len(text)])[0]
    first = [i for i, step in zip(ids, index.tolist(), strict=True) if step == 0]
    assert decode(first) == "aaa;;"
