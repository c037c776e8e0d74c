import pytest
import torch

from rlbook.lm.tasks import Problem
from rlbook.lm.tasks.symbols import SOURCE, TARGET, Symbols, line


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("kind", "solved"),
    [
        ("copy", "copy cab=cab."),
        ("reverse", "reverse cab=bac."),
        ("sort", "sort cab=abc."),
        ("translate", "translate cab=poq."),
        ("back", "back poq=cab."),
    ],
)
def test_lines_by_hand(kind, solved):
    assert line(kind, "cab") == solved
    assert line(kind, "cab", named=False) == solved.replace(kind, "?")


def test_translating_there_and_back_changes_nothing():
    assert sorted(TARGET) == sorted(set(TARGET)) and not set(SOURCE) & set(TARGET)
    there = line("translate", SOURCE).partition("=")[2]
    assert line("back", SOURCE) == f"back {there[:-1]}={SOURCE}."


def test_problems_rewards_and_demonstrations():
    task = Symbols()
    problems = task.problems(200, seeded())
    assert {p.prompt.split()[0] for p in problems} == {
        "copy", "reverse", "sort", "translate", "back"
    }  # fmt: skip
    right = [p.answer + "." for p in problems]
    assert task.rewards(problems, right).sum() == 200
    assert task.rewards(problems, [p.answer for p in problems]).sum() == 0
    assert task.rewards(problems, [text + "." for text in right]).sum() == 0
    assert task.extract_answer("abc.") == "abc" and task.extract_answer("abc") == ""
    for prompt, text in task.demonstrations(50, seeded()):
        kind, given = prompt.rstrip("=").split()
        if kind == "sort":
            assert text == "".join(sorted(given)) + "."
    assert task.problems(9, seeded(1)) == task.problems(9, seeded(1))
    everything = "".join(task.documents(50, seeded())) + "".join(p.prompt for p in problems)
    assert set(everything) <= set(task.characters)
    assert max(len(text) for text in right) + 1 <= task.max_new_tokens


def words_of(document):
    """(kind, word in the source alphabet, whatever the kind) of each line of a document."""
    to_source = str.maketrans(TARGET, SOURCE)
    pieces = [piece.strip() for piece in document.rstrip("=").split(".")]
    pairs = [piece.partition("=")[0].split() for piece in pieces if piece]
    return [(kind, word.translate(to_source)) for kind, word in pairs]


def test_a_word_is_held_out_for_all_kinds_and_never_an_example():
    task = Symbols(shots=2, lengths=(3, 3))
    test = task.problems(300, seeded(), split="test")
    train = task.problems(1_000, seeded())
    asked = {words_of(p.prompt)[-1][1] for p in test}
    shown = {word for p in test + train for _, word in words_of(p.prompt)[:-1]}
    shown |= {words_of(p.prompt)[-1][1] for p in train}
    shown |= {word for document in task.documents(300, seeded()) for _, word in words_of(document)}
    assert len(asked) > 20 and len(shown) > 200 and not asked & shown


def test_few_shot_prompts_show_one_kind_without_naming_it():
    task = Symbols(shots=3, named=False)
    for problem in task.problems(60, seeded()):
        *examples, question = problem.prompt.split(". ")
        assert len(examples) == 3 and question.startswith("? ") and question.endswith("=")
        assert kinds_that_explain(". ".join([*examples, question + problem.answer + "."]))


def kinds_that_explain(document):
    """The kinds that give every line of a document without names."""
    to_source = str.maketrans(TARGET, SOURCE)
    lines = [f"{piece}." for piece in document.rstrip(".").split(". ")]
    words = [solved[2:].partition("=")[0].translate(to_source) for solved in lines]
    return [
        kind
        for kind in Symbols().kinds
        if all(line(kind, w, named=False) == s for w, s in zip(words, lines, strict=True))
    ]


def test_documents_name_each_line_or_none():
    documents = Symbols().documents(400, seeded(), lines=3, unnamed=0.25)
    hidden = [document for document in documents if document.startswith("?")]
    assert 50 < len(hidden) < 150
    assert all(kinds_that_explain(document) for document in hidden)
    assert all(document.count("?") == document.count("=") == 3 for document in hidden)
    assert all("?" not in document for document in documents if document not in hidden)
    assert Symbols(kinds=["copy"]).problems(3, seeded())[0].prompt.startswith("copy ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["rot13"]}, "must be among copy, reverse"),
        ({"kinds": []}, "must be among"),
        ({"lengths": (1, 3)}, r"lengths=\(1, 3\) must be a pair"),
        ({"named": False}, "at least 1 where the kind is not named"),
        ({"shots": -1}, "shots=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Symbols(**arguments)


def test_bad_lines():
    with pytest.raises(ValueError, match="kind='rot13' is not one of"):
        line("rot13", "abc")
    with pytest.raises(ValueError, match="the word 'xyz' must be made of the letters"):
        line("copy", "xyz")
    assert Symbols().split_of(Problem("copy cab=")) == Symbols().split_of(Problem("back poq="))
