import json
import sys
import types
import warnings
from fractions import Fraction

import pytest
import torch

from rlbook.lm.tasks.gsm8k import GSM8K, final_answer, parse_number, remove_marks

CLIPS = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Altogether 48+24 = <<48+24=72>>72 clips.\n#### 72"
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(question, answer="One step.\n#### 1"):
    return {"question": question, "answer": answer}


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72), (" 72 ", 72), ("72.", 72), ("72.0", 72), ("1,080", 1080), ("1,000,000.", 10**6),
        ("$1,000.50", Fraction(2001, 2)), ("-5", -5), ("−5", -5), ("-$5", -5), ("$-5", -5),
        ("- 5", -5), ("25%", 25), ("10 apples", 10), ("about 3.5 km.", Fraction(7, 2)),
        (".5", Fraction(1, 2)), ("1/2", Fraction(1, 2)), ("-3 / 4 pint", Fraction(-3, 4)),
        ("0.1", Fraction(1, 10)), ("£7", 7), ("**8**", 8), ("007", 7),
        ("", None), ("none", None), ("1 or 2", None), ("2:30", None), ("1/0", None),
        ("1 2/3", None), ("9" * 5_000, None),
    ],
)  # fmt: skip
def test_numbers_by_hand(text, number):
    assert parse_number(text) == number


def test_the_answer_stands_on_the_last_marked_line():
    assert final_answer(CLIPS) == 72
    assert final_answer("#### 1\n#### 2") == 2
    assert final_answer("#### 3\nand 4 more words") == 3
    assert final_answer("The answer is 72") is None
    assert final_answer("####\n72") is None


def test_rewards_by_hand():
    task = GSM8K([("How many?", CLIPS), ("And now?", "#### 1,000")])
    first, second = (p for p in sorted((*task.train_problems, *task.test_problems),
                                       key=lambda p: p.answer, reverse=True))  # fmt: skip
    assert (first.answer, second.answer) == ("72", "1000")
    texts = [CLIPS, "So:\n#### $72.00", "#### 73", "72", "#### 7 2", ""]
    assert task.rewards([first] * 6, texts).tolist() == [1, 1, 0, 0, 0, 0]
    assert task.rewards([second] * 3, ["#### 1000", "#### 1,000 m", "#### 1"]).tolist() == [1, 1, 0]
    assert task.extract_answer("#### $2.50") == task.extract_answer("#### 5/2") == "5/2"
    assert task.extract_answer("no idea") == ""


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (CLIPS, [48, len(CLIPS)]),  # the #### line belongs to the second step
        ("a\nb\nc", [2, 4, 5]),
        ("a\n\n\nb\n#### 1", [4, 12]),
        ("\na\nb", [3, 4]),
        ("a\n#### 1\nmore", [13]),
        ("#### 1", [6]),
        ("a\n", [2]),
        ("", [0]),
    ],
)
def test_steps_by_hand(text, steps):
    assert GSM8K([("q", "#### 1"), ("r", "#### 1")]).step_boundaries(text) == steps


def test_marks_are_removed_on_request(tmp_path):
    assert remove_marks(CLIPS).startswith("Natalia sold 48/2 = 24 clips in May.\n")
    assert "<<" not in remove_marks(CLIPS)
    file = write(tmp_path / "a.jsonl", *(row(f"q{i}", CLIPS) for i in range(5)))
    kept, removed = GSM8K.from_path(file), GSM8K.from_path(file, calculator_marks=False)
    assert set(kept.solutions.values()) == {CLIPS}
    assert set(removed.solutions.values()) == {remove_marks(CLIPS)}


# --- files -----------------------------------------------------------------------------------


def test_malformed_lines_are_named_and_the_rest_loads(tmp_path):
    file = write(
        tmp_path / "train.jsonl",
        row("first"),
        "{not json",
        row("second"),
        {"question": "no answer here"},
        "",
        json.dumps([1, 2]),
        row("no number", "No idea.\n#### none"),
        row("third"),
        row("", "#### 1"),
    )
    with pytest.warns(UserWarning) as caught:
        task = GSM8K.from_path(file)
    message = str(caught[0].message)
    assert len(caught) == 1 and "\n" not in message
    assert "5 malformed lines left out: train.jsonl line 2: not JSON" in message
    assert "train.jsonl line 4: no text in the field 'answer'" in message
    assert "and 2 more" in message
    assert [line for _, line, _ in task.malformed] == [2, 4, 6, 7, 9]
    questions = [p.prompt for p in (*task.train_problems, *task.test_problems)]
    assert len(questions) == 3 and all(p.startswith("Question: ") for p in questions)


def test_bytes_that_are_no_utf8_are_a_malformed_line(tmp_path):
    file = tmp_path / "a.jsonl"
    good = json.dumps(row("q")).encode()
    file.write_bytes(b"\xff\xfe\n" + good + b"\n" + json.dumps(row("r")).encode())
    with pytest.warns(UserWarning, match="1 malformed lines left out: a.jsonl line 1: not JSON"):
        assert len(GSM8K.from_path(file).solutions) == 2


def test_a_folder_has_its_own_test_split(tmp_path):
    write(tmp_path / "train.jsonl", *(row(f"q{i}") for i in range(10)), row("shared"))
    write(tmp_path / "test.jsonl", row("shared"), row("held out"))
    task = GSM8K.from_path(tmp_path, prompt_format="{question}?", max_new_tokens=9)
    assert [p.prompt for p in task.test_problems] == ["shared?", "held out?"]
    assert [p.prompt for p in task.train_problems] == [f"q{i}?" for i in range(10)]
    assert task.max_new_tokens == 9
    drawn = task.problems(2, seeded(), split="test")
    assert {p.prompt for p in drawn} == {"shared?", "held out?"}
    assert task.demonstrations(3, seeded())[0][1] == "One step.\n#### 1"
    assert len(task.fixed(4, seeded()).train_problems) == 4


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="does not exist: give a JSONL file"):
        GSM8K.from_path(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"must hold \{question\}"):
        GSM8K([("q", "#### 1")], prompt_format="Q:")
    with pytest.raises(ValueError, match="no training problem"):
        GSM8K([])
    with pytest.raises(ValueError, match="no number after '####' in the solution 'who knows'"):
        GSM8K([("q", "who knows")])


# --- the hub ---------------------------------------------------------------------------------


def test_without_the_datasets_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets, or give a JSONL file"):
        GSM8K.from_hub()


def test_the_hub_out_of_reach_and_in_reach(monkeypatch):
    """A stand-in for the library: what its loader returns or raises is what we depend on."""
    calls = []

    def load_dataset(name, config):
        calls.append((name, config))
        if name == "nowhere":
            raise ConnectionError("Couldn't reach 'nowhere'\non the Hub")
        return {"train": [row(f"q{i}", CLIPS) for i in range(3)], "test": [row("t", CLIPS)]}

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(ValueError, match=r"nowhere cannot be loaded \(Couldn't reach") as caught:
        GSM8K.from_hub("nowhere")
    assert "\n" not in str(caught.value)
    task = GSM8K.from_hub(calculator_marks=False)
    assert calls[-1] == ("openai/gsm8k", "main")
    assert len(task.train_problems) == 3 and len(task.test_problems) == 1
    assert task.solutions[task.test_problems[0].prompt] == remove_marks(CLIPS)


# --- the real thing --------------------------------------------------------------------------


def test_all_of_gsm8k_parses_and_its_solutions_are_right(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = GSM8K.from_path(real_data / "gsm8k" / "train.jsonl", calculator_marks=False)
    problems = [*task.train_problems, *task.test_problems]
    assert len(problems) == 7_473 and task.malformed == ()
    assert len(task.test_problems) == pytest.approx(747, abs=90)
    solutions = [task.solutions[p.prompt] for p in problems]
    assert task.rewards(problems, solutions).sum() == 7_473
    perturbed = [f"{s.rpartition('####')[0]}#### {Fraction(p.answer) + 1}"
                 for s, p in zip(solutions, problems, strict=True)]  # fmt: skip
    assert task.rewards(problems, perturbed).sum() == 0
    assert not any("<<" in s or ">>" in s for s in solutions)
    for solution in solutions:
        lines = [line for line in solution.split("\n") if line.strip()]
        boundaries = task.step_boundaries(solution)
        assert len(boundaries) == len(lines) - 1 and boundaries[-1] == len(solution)
