import itertools
import math

import pytest
import torch

from rlbook.lm.chat import chat_prompt
from rlbook.lm.tasks import Problem
from rlbook.lm.tasks.labellers import (
    GRADES,
    Comparison,
    Labeller,
    compare,
    default_panel,
    gumbel,
    noise_ceiling,
    preference,
    rank,
)
from rlbook.lm.tasks.replies import Replies
from rlbook.lm.tasks.toy_language import (
    COURTESIES,
    FACTS,
    FILLERS,
    OPENERS,
    as_problem,
    best_reply,
    gold_score,
    parse,
)
from rlbook.lm.tokenizers import character_tokenizer

SKY = "what colour is the sky?"
ANN = as_problem("i am ann. ", SKY)
PLAIN = as_problem("", SKY)
TASK = Replies()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the language ----------------------------------------------------------------------------


def test_a_prompt_is_the_chat_template_of_its_request():
    tokenizer = character_tokenizer(TASK.characters, context=200)
    message = {"role": "user", "content": "i am ann. what colour is the sky?"}
    assert ANN.prompt == chat_prompt(tokenizer, [message])
    assert ANN.answer == "the sky is blue."


def test_every_request_can_be_read_back():
    for opener, question in itertools.product(OPENERS, FACTS):
        fact, name = parse(as_problem(opener, question).prompt)
        assert fact.question == question and fact.answer not in fact.wrong
        assert name == (opener[5:8] if opener.startswith("i am") else "")
    with pytest.raises(ValueError, match="is not a request of this language, such as"):
        parse("<|user|>what is love?<|assistant|>")


def test_splits_and_lengths():
    train = {p.prompt for p in TASK.problems(2_000, seeded())}
    test = {p.prompt for p in TASK.problems(500, seeded(), split="test")}
    assert not train & test and len(test) > 20 and len(train | test) <= 280
    pairs = TASK.demonstrations(500, seeded())
    assert {prompt for prompt, _ in pairs} <= train
    assert max(len(text) for _, text in pairs) + 1 <= TASK.max_new_tokens
    text = "".join(text for _, text in pairs) + "".join(TASK.documents(50, seeded()))
    assert set(text) <= set(TASK.characters)


def test_documents_state_facts_or_ask_and_never_answer():
    documents = TASK.documents(300, seeded())
    asking = [document for document in documents if "?" in document]
    assert 100 < len(asking) < 200
    assert all(document.count("?") == 4 and "." not in document for document in asking)
    assert not any("<|" in document for document in documents)
    true = {fact.says(fact.answer) for fact in FACTS.values()}
    stating = [document for document in documents if "?" not in document]
    assert {s.strip() + "." for d in stating for s in d.split(".") if s.strip()} == true


# --- gold ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "text", "gold"),
    [
        (ANN, "hi ann. the sky is blue. glad to help.", 2 + 0.5 + 0.5),
        (ANN, "the sky is blue.", 2),
        (ANN, "the sky is red.", -1),
        (ANN, "the sky is red. the sky is blue.", -1),
        (ANN, "i do not know.", 0),
        (ANN, "the snow is white.", 0),
        (ANN, "hi bob. the sky is blue.", 2),
        (ANN, "hello. the sky is blue.", 2),
        (PLAIN, "hello. the sky is blue.", 2 + 0.5),
        (ANN, "the sky is blue. glad to help. have a nice day.", 2 + 0.5),
        (ANN, "the sky is blue. the sky is blue.", 2 - 0.5),
        (ANN, "the sky is blue. bla bla.", 2 - 0.5),
        (ANN, "the sky is blue", 0 - 0.5 - 1),  # no full stop: not a sentence of the language
        (ANN, "", -1),
        (ANN, "the sky is blue. what a great question. that is true. so it is.", 2 - 0.1 * 2),
    ],
)
def test_gold_by_hand(problem, text, gold):
    assert gold_score(problem, text) == pytest.approx(gold, abs=1e-12)
    assert TASK.rewards([problem], [text]).item() == pytest.approx(gold, abs=1e-6)


def test_no_reply_beats_the_best_one():
    problems = TASK.problems(40, seeded())
    for problem, rows in zip(problems, TASK.candidates(problems, 30, seeded()), strict=True):
        best = gold_score(problem, best_reply(problem))
        assert best == 3.0
        assert all(gold_score(problem, text) <= best for text in rows)
    clean = TASK.demonstrations(5, seeded(), clean=True)
    assert TASK.rewards([Problem(p) for p, _ in clean], [t for _, t in clean]).tolist() == [3] * 5


def test_sentences_are_steps_and_the_fact_is_the_answer():
    text = "hi ann. the sky is blue. glad to help."
    assert TASK.step_boundaries(text) == [7, 24, 38]
    assert TASK.extract_answer(text) == "the sky is blue."
    assert TASK.extract_answer("hello.") == ""


# --- labellers -------------------------------------------------------------------------------


def test_utility_and_preference_by_hand():
    """5 words more and flattery: 0.1·4 + 0.5, against 0.5 gold for... nothing: gold is equal."""
    who = Labeller(length=0.1, flattery=0.5, temperature=2.0)
    plain, flattering = "the sky is blue.", "what a great question. the sky is blue."
    assert who.utility(ANN, plain) == pytest.approx(2 + 0.4)
    assert who.utility(ANN, flattering) == pytest.approx(2 + 0.8 + 0.5)
    p = 1 / (1 + math.exp(-0.9 / 2.0))
    assert preference([who], ANN, flattering, plain) == pytest.approx(p, abs=1e-12)
    fair = Labeller(0.0, 0.0, 1.0)
    assert preference([fair], ANN, flattering, plain) == 0.5
    assert preference([who, fair], ANN, flattering, plain) == pytest.approx((p + 0.5) / 2)
    careful = Labeller(0.0, 0.0, 0.0)
    assert preference([careful], ANN, plain, "the sky is red.") == 1.0


def test_choices_are_bradley_terry():
    panel, n = default_panel(), 800
    a, b = "the sky is blue. so it is. that is true.", "hi ann. i do not know."
    found = compare(panel, [ANN] * n, [a] * n, [b] * n, seeded())
    p = preference(panel, ANN, a, b)
    share = sum(c.chosen == a for c in found) / n
    assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))  # beyond: 6e-7
    assert 0.6 < p < 0.97
    for c in found[:20]:
        assert {c.chosen, c.rejected} == {a, b}
        assert c.probability == pytest.approx(p if c.chosen == a else 1 - p)


def test_rankings_are_plackett_luce():
    who, n = Labeller(0.0, 0.0, 1.0), 1_500
    texts = ["the sky is blue.", "hello.", "the sky is red."]  # gold 2, 0, -1
    weights = [math.exp(u) for u in (2.0, 0.0, -1.0)]
    orders = rank([who], [ANN] * n, [texts] * n, seeded())
    for order in itertools.permutations(range(3)):
        p, left = 1.0, sum(weights)
        for i in order:
            p, left = p * weights[i] / left, left - weights[i]
        share = sum(r.texts == tuple(texts[i] for i in order) for r in orders) / n
        # six comparisons at 5 standard errors: 4e-6 in all
        assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))


def test_gumbel_differences_are_logistic():
    draws = gumbel(20_000, seeded()).reshape(2, -1)
    gaps = draws[0] - draws[1]
    for x in (-1.0, 0.0, 2.0):
        share = (gaps < x).double().mean().item()
        assert share == pytest.approx(1 / (1 + math.exp(-x)), abs=0.025)  # 5 standard errors


def test_grades_follow_the_difference():
    careful = Labeller(0.0, 0.0, 0.0)
    texts = ["i do not know.", "hi ann. i do not know.", "hi ann. i do not know. glad to help."]
    worst = "the sky is red. the sky is red. bla."  # -2
    grades = [compare([careful], [ANN], [worst], [t], seeded())[0].grade for t in texts]
    assert [gold_score(ANN, t) for t in (worst, *texts)] == [-2, 0, 0.5, 1]
    assert grades == [2, 2, 3]  # differences 2, 2.5, 3
    near = compare([careful], [ANN], [texts[0]], [texts[1]], seeded())[0]
    assert (near.grade, near.margin) == (0, 0.0) and near.chosen == texts[1]
    assert compare([careful], [ANN], [worst], [texts[2]], seeded())[0].margin == 1.0
    assert GRADES[0] == 0


def test_drawn_comparisons_and_rankings():
    comparisons = TASK.comparisons(300, seeded())
    assert all(c.chosen != c.rejected for c in comparisons)
    assert {TASK.split_of(Problem(c.prompt)) for c in comparisons} == {"train"}
    held_out = TASK.comparisons(20, seeded(), split="test")
    assert {TASK.split_of(Problem(c.prompt)) for c in held_out} == {"test"}
    assert {c.grade for c in comparisons} == {0, 1, 2, 3}
    ceiling = noise_ceiling(comparisons)
    by_gold = [gold_score(Problem(c.prompt), c.chosen) >= gold_score(Problem(c.prompt), c.rejected)
               for c in comparisons]  # fmt: skip
    assert 0.7 < ceiling < 0.95 and sum(by_gold) / 300 > 0.65
    for k in (4, 9):
        row = TASK.rankings(3, k, seeded())[0]
        assert len(set(row.texts)) == k
    assert TASK.comparisons(5, seeded(7)) == TASK.comparisons(5, seeded(7))


def test_labellers_like_length_more_than_the_gold_score_does():
    """The confound: at equal gold, the longer reply wins more often than not."""
    short = "the sky is blue."
    long = f"{short} {FILLERS[0]} {COURTESIES[0]}".replace(COURTESIES[0], FILLERS[1])
    assert gold_score(ANN, long) == gold_score(ANN, short)
    assert preference(default_panel(), ANN, long, short) > 0.6


def test_noise_ceiling_by_hand():
    sure = Labeller(0.0, 0.0, 0.0)
    unsure = Labeller(0.0, 0.0, 1e9)
    pair = ([ANN] * 2, ["the sky is blue."] * 2, ["hello."] * 2)
    assert noise_ceiling(compare([sure], *pair, seeded())) == 1.0
    assert noise_ceiling(compare([unsure], *pair, seeded())) == pytest.approx(0.5, abs=1e-8)
    given = [Comparison("", "a", "b", 0, p) for p in (0.9, 0.3)]
    assert noise_ceiling(given) == pytest.approx((0.9 + 0.7) / 2)
    with pytest.raises(ValueError, match="no comparisons"):
        noise_ceiling([])


def test_bad_arguments():
    with pytest.raises(ValueError, match="the panel is empty"):
        Replies([])
    with pytest.raises(ValueError, match=r"temperature=-1\.0 must not be negative"):
        Replies([Labeller(0.0, 0.0, -1.0)])
    with pytest.raises(ValueError, match="pair 1 has two identical replies 'b'"):
        TASK.compare([ANN, ANN], ["a", "b"], ["c", "b"], seeded())
    with pytest.raises(ValueError, match="1 problems, 2 first and 1 second"):
        TASK.compare([ANN], ["a", "b"], ["c"], seeded())
    with pytest.raises(ValueError, match="k=10 replies to rank"):
        TASK.rankings(1, 10, seeded())
    with pytest.raises(ValueError, match="row 1 has 1 replies"):
        TASK.rank([ANN, ANN], [["a", "b"], ["a"]], seeded())
    with pytest.raises(ValueError, match="2 problems for 1 rows"):
        TASK.rank([ANN, ANN], [["a", "b"]], seeded())
