"""Text as a decision process: Part I's planners against the sums over whole responses."""

import numpy as np
import pytest
import torch
from naive_texts import SPACES, all_texts, build, naive_rows, random_rewards
from small_models import tiny_gpt2

from rlbook.lm.batch import Responses
from rlbook.lm.exact import (
    enumerate_responses,
    expected_reward,
    prefix_probabilities,
    prefix_values,
    sequence_logprobs,
)
from rlbook.lm.logprobs import response_logprobs
from rlbook.lm.tabular_lm import TabularLM
from rlbook.lm.token_mdp import bandit_mdp, bandit_policy, policy_matrix, state_names, token_mdp
from rlbook.tabular.gridworld import ARROWS, GridWorld
from rlbook.tabular.planning import finite_horizon, policy_evaluation, value_iteration

NAMES = list(SPACES)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_the_smallest_text():
    """V = 2, 1 ends, at most 2 tokens: states: nothing yet; 0; the end. R(00, 01, 1) = 5, 6, 7."""
    model = TabularLM([[0]], vocab_size=2, max_new_tokens=2, eos_id=1)
    mdp = token_mdp(model, torch.tensor([5.0, 6.0, 7.0]))
    assert mdp.R.tolist() == [[0, 7], [5, 6], [0, 0]]
    assert mdp.P.argmax(axis=2).tolist() == [[1, 2], [2, 2], [2, 2]]
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.start.tolist() == [1, 0, 0]
    assert state_names(model) == ["0 |", "0 | 0", "end"]
    assert policy_matrix(model).tolist() == [[0.5, 0.5]] * 3


@pytest.mark.parametrize("name", NAMES)
def test_transitions_append_the_token(name):
    model = build(name)
    rows = naive_rows(model)
    rewards = random_rewards(model)
    pays = dict(zip(all_texts(model), rewards.tolist(), strict=True))
    mdp = token_mdp(model, rewards)
    end = len(rows)
    assert ((mdp.P == 0) | (mdp.P == 1)).all()
    for (x, prefix), row in rows.items():
        for token in range(model.config.vocab_size):
            text = (x, (*prefix, token))
            assert mdp.P[row, token].argmax() == rows.get(text, end)
            assert mdp.R[row, token] == pays.get(text, 0.0)
        start = 0.0 if prefix else 1 / len(model.space.prompts)
        assert mdp.start[row] == pytest.approx(start, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_policy_evaluation_finds_the_values_of_the_enumeration(name):
    model, rewards = build(name), random_rewards(build(name))
    mdp, pi = token_mdp(model, rewards), policy_matrix(model)
    V, Q = (x.detach().numpy() for x in prefix_values(model, rewards))
    solution = policy_evaluation(mdp, pi, gamma=1.0)
    close(solution.V, [*V, 0.0])
    close(solution.Q[:-1], Q)
    close(mdp.start @ solution.V, expected_reward(model, rewards).item())
    # d(s) are the visits of the chain: d = start + d P_π, the end left out
    P_pi = mdp.under(pi)[0][:-1, :-1]
    visits = np.linalg.solve(np.eye(len(P_pi)) - P_pi.T, mdp.start[:-1])
    close(visits, prefix_probabilities(model).detach().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_the_best_that_can_follow_a_prefix(name):
    model, rewards = build(name), random_rewards(build(name))
    solution = value_iteration(token_mdp(model, rewards), gamma=1.0, tol=1e-12)
    pays = dict(zip(all_texts(model), rewards.tolist(), strict=True))
    for (prompt, prefix), row in naive_rows(model).items():
        follow = [r for (x, y), r in pays.items() if x == prompt and y[: len(prefix)] == prefix]
        close(solution.V[row], max(follow))


@pytest.mark.parametrize("name", NAMES)
def test_the_bandits_view(name):
    """One choice per text: the same objective, the same optimum; Q are the rewards themselves."""
    model, rewards = build(name), random_rewards(build(name))
    mdp, pi = bandit_mdp(model, rewards), bandit_policy(model)
    N = len(model.space.prompts)
    solution = policy_evaluation(mdp, pi, gamma=1.0)
    close(mdp.start @ solution.V, expected_reward(model, rewards).item())
    close(solution.Q[:N].ravel(), rewards.numpy())
    close(pi[:N].ravel(), sequence_logprobs(model).exp().detach().numpy())
    best = value_iteration(mdp, gamma=1.0, tol=1e-12).V
    token = value_iteration(token_mdp(model, rewards), gamma=1.0, tol=1e-12).V
    close(best[:N], rewards.reshape(N, -1).amax(1).numpy())
    close(best[:N], token[: -1 : len(model.space.prefixes)])


def test_names_in_words():
    model = build("eos-two-prompts")
    names = state_names(model, ["a", "b", "."])
    assert len(names) == 3 * 7 + 1
    assert names[:4] == [". . |", ". . | a", ". . | b", ". . | a a"]
    assert names[-2:] == ["b a b | b b", "end"]
    with pytest.raises(ValueError, match="2 words for 3 tokens"):
        state_names(model, ["a", "b"])


def test_any_language_model_can_be_planned_in():
    """A random GPT-2 over three words: its exact J by the linear system of chapter 03, and by its
    own log-probabilities of every response."""
    texts = build("eos-two-prompts")
    gpt2 = tiny_gpt2(vocab=3, context=8, pad_token_id=2, eos_token_id=2)
    rewards = random_rewards(texts)
    mdp = token_mdp(texts, rewards)
    planned = mdp.start @ policy_evaluation(mdp, policy_matrix(texts.tabulate(gpt2)), gamma=1.0).V
    with torch.no_grad():
        p = response_logprobs(gpt2, enumerate_responses(texts)).sum(dim=1).double().exp()
    assert planned == pytest.approx((p * rewards).sum().item() / 3, abs=1e-5)


def test_bad_input():
    model = build("eos")
    for make in (token_mdp, bandit_mdp):
        with pytest.raises(ValueError, match="each of the 15 responses"):
            make(model, torch.zeros(3))
    large = TabularLM([[0]], vocab_size=10, max_new_tokens=5)
    with pytest.raises(ValueError, match="11111 states and 10 tokens need 1234765440 transitions"):
        token_mdp(large, torch.zeros(10**5))


# --- the gridworld as text -------------------------------------------------------------------

MOVES = 4


@pytest.fixture(scope="module")
def grid():
    """+1 at the goal, four moves away; -1 in the pit, two moves away; no chance, no cost."""
    return GridWorld("S.P\n...\n#.G", rewards={"G": 1.0, "P": -1.0}, step_reward=0.0)


def walk(grid: GridWorld, moves: tuple[int, ...]) -> tuple[int, float]:
    """The cell that a text of moves leads to, and what it has earned; an end is never left."""
    cell, earned = int(grid.start.argmax()), 0.0
    for move in moves:
        if not grid.terminal[cell]:
            cell = int(grid.next_states[move, cell])
            earned += grid.entry_rewards[cell]
    return cell, earned


def texts_of_moves(grid: GridWorld) -> tuple[TabularLM, torch.Tensor]:
    """Words ↑ → ↓ ←, a prompt of one word that stands for the map, and the reward of each walk."""
    g = torch.Generator().manual_seed(0)
    model = TabularLM.fixed_length(g, vocab_size=len(ARROWS), max_new_tokens=MOVES)
    return model, torch.tensor([walk(grid, y)[1] for y in model.space.responses])


def test_the_best_text_is_the_best_walk(grid):
    """V* of a prefix is what it has earned, and chapter 03's V* of its cell with the moves left."""
    model, rewards = texts_of_moves(grid)
    found = value_iteration(token_mdp(model, rewards), gamma=1.0, tol=1e-12).V
    cells = finite_horizon(grid.mdp(as_sparse=False), horizon=MOVES).V
    for prefix, V in zip(model.space.prefixes, found[:-1], strict=True):
        cell, earned = walk(grid, prefix)
        close(V, earned + cells[MOVES - len(prefix), cell])
    assert len(model.space.prefixes) == 1 + 4 + 16 + 64
    assert sorted(set(found.round(9).tolist())) == [-1.0, 0.0, 1.0]  # some prefixes are lost


def test_many_prefixes_are_one_cell(grid):
    """A policy that looks at the cell alone gives equal values to all texts that lead there."""
    model, rewards = texts_of_moves(grid)
    of_cell = torch.randn(grid.S, 4, generator=torch.Generator().manual_seed(1))
    places = [walk(grid, prefix) for prefix in model.space.prefixes]
    model = model.like(of_cell.double()[[cell for cell, _ in places]])
    V = prefix_values(model, rewards)[0].tolist()
    values: dict[tuple[int, int, float], list[float]] = {}
    for prefix, (cell, earned), value in zip(model.space.prefixes, places, V, strict=True):
        values.setdefault((len(prefix), cell, earned), []).append(value)
    assert max(map(len, values.values())) > 5
    for group in values.values():
        close(group, group[0])


def test_enumerated_texts_are_responses(grid):
    model, _ = texts_of_moves(grid)
    responses = enumerate_responses(model)
    assert isinstance(responses, Responses)
    assert responses.texts[:2] == ["0 0 0 0", "0 0 0 1"]
    assert len(responses) == 4**MOVES
