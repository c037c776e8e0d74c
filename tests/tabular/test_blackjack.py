"""Blackjack against Gymnasium's own environment card by card, against fractions, and in print."""

import functools
from fractions import Fraction

import numpy as np
import pytest
from gymnasium.envs.toy_text.blackjack import deck, is_natural, score, sum_hand, usable_ace

from rlbook.tabular.blackjack import (
    BUST,
    HIT,
    NATURAL,
    OVER,
    STATES,
    STICK,
    NumberedBlackjack,
    add_card,
    blackjack_mdp,
    dealer_totals,
    decision_states,
    payment,
    sticking_policy,
)
from rlbook.tabular.episodes import sample_episode
from rlbook.tabular.monte_carlo import (
    epsilon_greedy,
    monte_carlo_control,
    monte_carlo_exploring_starts,
)
from rlbook.tabular.planning import optimal_actions, policy_evaluation, policy_iteration
from rlbook.tabular.td import q_learning

RULES = [
    {"natural": False, "sab": True},
    {"natural": False, "sab": False},
    {"natural": True, "sab": False},
    {"natural": True, "sab": True},
]
every_rule = pytest.mark.parametrize("rules", RULES)
DRAWS = {card: Fraction(deck.count(card), len(deck)) for card in set(deck)}


def number(total: int, card: int, ace: int) -> int:
    return (total * 11 + card) * 2 + ace


class Marked:
    """A random generator that draws one card of the deck, by its place in it."""

    def __init__(self, place: int) -> None:
        self.place = place

    def choice(self, cards):
        return cards[self.place]


# --- an oracle: hands as lists of cards, judged by Gymnasium's functions, in fractions ---------


def shown_total(hand: tuple[int, ...]) -> int:
    return NATURAL if is_natural(list(hand)) else score(list(hand))


@functools.cache
def dealer_ends(hand: tuple[int, ...]) -> dict[int, Fraction]:
    """Total → probability, for a dealer with these cards (sorted)."""
    if len(hand) > 1 and sum_hand(list(hand)) >= 17:
        return {shown_total(hand): Fraction(1)}
    ends: dict[int, Fraction] = {}
    for card, chance in DRAWS.items():
        for total, inner in dealer_ends(tuple(sorted((*hand, card)))).items():
            ends[total] = ends.get(total, Fraction(0)) + chance * inner
    return ends


def stick_value(hand: tuple[int, ...], card: int) -> Fraction:
    return settled(shown_total(hand), card)


@functools.cache
def settled(mine: int, card: int) -> Fraction:
    """Sutton and Barto's rules, as Gymnasium's step settles them."""
    value = Fraction(0)
    for total, chance in dealer_ends((card,)).items():
        if mine == NATURAL:
            value += chance * (total != NATURAL)
        else:
            other = min(total, 21)
            value += chance * ((mine > other) - (mine < other))
    return value


@functools.cache
def best_value(hand: tuple[int, ...], card: int) -> float:
    """The value of optimal play, by recursion over hands; its sums of ten terms are in floats."""
    if sum_hand(list(hand)) > 21:
        return -1.0
    # 20 or 21 without a usable ace: hitting would bust with chance 11/13 or more
    if sum_hand(list(hand)) >= 20 and not usable_ace(list(hand)):
        return float(stick_value(hand, card))
    hit = sum(
        float(chance) * best_value(tuple(sorted((*hand, drawn))), card)
        for drawn, chance in DRAWS.items()
    )
    return max(hit, float(stick_value(hand, card)))


# --- the cards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "card", "after"),
    [
        ((0, 0), 1, (11, 1)),
        ((11, 1), 1, (12, 1)),  # two aces: 11 + 1
        ((10, 0), 1, (21, 1)),
        ((11, 0), 1, (12, 0)),  # 11 + 11 would bust
        ((17, 1), 9, (16, 0)),  # the ace falls back to 1: 17 - 10 + 9
        ((17, 1), 4, (21, 1)),
        ((12, 0), 10, (22, 0)),
        ((21, 1), 10, (21, 0)),  # 21 - 10 + 10
    ],
)
def test_one_more_card_by_hand(before, card, after):
    assert add_card(*before, card) == after


def test_the_dealers_totals_against_fractions():
    table = dealer_totals()
    assert table.shape == (11, 23)
    assert not table[0].any()
    for card in range(1, 11):
        exact = dealer_ends((card,))
        assert sum(exact.values()) == 1
        expected = [float(exact.get(total, 0)) for total in range(23)]
        np.testing.assert_allclose(table[card], expected, atol=1e-14)


def test_the_dealers_totals_in_print():
    # Alan Krigman, "How Well Can You Predict Dealers' Final Totals from their Upcards?" (Casino
    # City Times, 2006): an infinite shoe; in per cent, for showing cards 7, 8, 9, 10 and ace.
    printed = {
        17: [36.86, 12.86, 12.00, 11.14, 13.08],
        18: [13.78, 35.93, 12.00, 11.14, 13.08],
        19: [7.86, 12.86, 35.08, 11.14, 13.08],
        20: [7.86, 6.94, 12.00, 34.22, 13.08],
        21: [7.41, 6.94, 6.08, 3.45, 5.39],
        NATURAL: [0, 0, 0, 7.69, 30.77],
        BUST: [26.23, 24.47, 22.84, 21.22, 11.52],
    }
    for total, shares in printed.items():
        ours = 100.0 * dealer_totals()[[7, 8, 9, 10, 1], total]
        # half of the last digit in print; what is left to 100 % stands in the last row
        np.testing.assert_allclose(ours, shares, atol=0.0101 if total == BUST else 0.0051)


# --- the MDP is the environment ------------------------------------------------------------------


@every_rule
def test_payments_are_the_environments(rules):
    hands = {t: [2, t - 2] if t <= 12 else [10, 2, t - 12] for t in range(4, 22)}
    dealers = {t: [10, 2, t - 12] for t in range(17, 22)} | {BUST: [10, 6, 10]}
    env = NumberedBlackjack(**rules)
    for total, hand in (hands | {NATURAL: [10, 1]}).items():
        for dealer_total, dealer in (dealers | {NATURAL: [1, 10]}).items():
            env.reset(seed=0)
            env.unwrapped.player, env.unwrapped.dealer = list(hand), list(dealer)
            _, reward, terminated, *_ = env.step(STICK)
            assert terminated
            assert reward == payment(total, dealer_total, **rules)


def test_payments_by_hand():
    assert payment(20, 19) == 1.0
    assert payment(20, 20) == 0.0
    assert payment(20, 21) == -1.0
    assert payment(4, BUST) == 1.0
    assert payment(21, NATURAL) == 0.0  # Gymnasium: the reverse rule does not apply
    assert payment(NATURAL, 21) == 1.0
    assert payment(NATURAL, NATURAL) == 0.0
    assert payment(NATURAL, 20, natural=True, sab=False) == 1.5
    assert payment(NATURAL, 21, natural=True, sab=False) == 0.0


def test_every_hit_is_the_environments():
    """Each card of the deck in each state: the row of P and the reward, with no chance left."""
    env, mdp = NumberedBlackjack(), blackjack_mdp()
    for s in np.flatnonzero(~mdp.terminal):
        row, reward_sum = np.zeros(STATES), 0.0
        for card, chance in DRAWS.items():
            env.unwrapped.np_random = np.random.default_rng(0)
            assert env.reset(options={"state": int(s)})[0] == s
            env.unwrapped.np_random = Marked(deck.index(card))
            s_next, reward, terminated, truncated, _ = env.step(HIT)
            row[s_next] += float(chance)
            reward_sum += reward * float(chance)
            assert terminated == mdp.terminal[s_next]
            assert not truncated
        np.testing.assert_allclose(mdp.P[s, HIT], row, atol=1e-14)
        assert mdp.R[s, HIT] == pytest.approx(reward_sum, abs=1e-14)


def test_sticking_pays_the_expectation():
    mdp = blackjack_mdp()
    for hand in [(2, 2), (10, 2), (1, 1), (1, 6), (10, 10), (1, 10), (1, 5, 5), (1, 10, 10)]:
        total, ace = sum_hand(list(hand)), usable_ace(list(hand))
        total = NATURAL if is_natural(list(hand)) else total
        for card in range(1, 11):
            s = number(total, card, ace)
            assert mdp.R[s, STICK] == pytest.approx(float(stick_value(hand, card)), abs=1e-14)
            assert mdp.P[s, STICK, OVER] == 1.0


def test_the_deal_against_enumeration():
    start = np.zeros(STATES)
    for first in deck:
        for second in deck:
            hand = [first, second]
            total = NATURAL if is_natural(hand) else sum_hand(hand)
            for card in deck:
                start[number(total, card, usable_ace(hand))] += 13.0**-3
    mdp = blackjack_mdp()
    np.testing.assert_allclose(mdp.start, start, atol=1e-14)
    naturals = [number(NATURAL, card, 1) for card in range(1, 11)]
    assert mdp.start[naturals].sum() == pytest.approx(2 * 1 / 13 * 4 / 13)
    assert not mdp.terminal[mdp.start > 0.0].any()


def test_the_shape_of_the_mdp():
    mdp = blackjack_mdp()
    env = NumberedBlackjack()
    assert (mdp.S, mdp.A) == (env.observation_space.n, env.action_space.n) == (704, 2)
    assert env.sizes == (32, 11, 2)
    # sums 4..21 without a usable ace, 12..21 with one, and a natural, against ten cards
    assert (~mdp.terminal).sum() == (18 + 10 + 1) * 10
    np.testing.assert_allclose(mdp.P.sum(axis=2), 1.0, atol=1e-12)
    # 20 without a usable ace: all but the ace bust; 12: only a ten-valued card does
    assert mdp.R[number(20, 5, 0), HIT] == pytest.approx(-12 / 13)
    assert mdp.R[number(12, 5, 0), HIT] == pytest.approx(-4 / 13)
    assert mdp.R[number(21, 5, 1), HIT] == 0.0


def test_the_decision_states():
    states, env = decision_states(), NumberedBlackjack()
    assert states.shape == (2, 10, 10)
    for (ace, row, column), s in np.ndenumerate(states):
        assert env.observation_of(int(s)) == (row + 12, column + 1, ace)


# --- the environment -----------------------------------------------------------------------------


def test_a_natural_is_told_apart():
    env = NumberedBlackjack()
    state, _ = env.reset(seed=1, options={"state": number(NATURAL, 7, 1)})
    assert env.observation_of(state) == (22, 7, 1)
    assert env.unwrapped.player == [1, 10]
    # any other 21 with a usable ace keeps its sum; and a natural that hits is one no more
    state, _ = env.reset(options={"state": number(21, 7, 1)})
    assert env.observation_of(state) == (21, 7, 1)
    env.reset(options={"state": number(NATURAL, 7, 1)})
    env.unwrapped.np_random = Marked(9)  # a ten
    assert env.observation_of(env.step(HIT)[0]) == (21, 7, 0)


def test_the_deal_shows_the_hand():
    # 200 deals from one seed, 8/169 of them naturals: none at all with chance 6e-5
    env, naturals = NumberedBlackjack(), 0
    env.reset(seed=0)
    for _ in range(200):
        total, card, ace = env.observation_of(env.reset()[0])
        hand, dealer = env.unwrapped.player, env.unwrapped.dealer
        assert (card, ace) == (dealer[0], usable_ace(hand))
        assert total == (NATURAL if is_natural(hand) else sum_hand(hand))
        naturals += is_natural(hand)
    assert naturals > 0


@pytest.mark.parametrize("hand", [(3, 5, 0), (11, 5, 1), (22, 5, 0), (23, 5, 1), (15, 0, 0)])
def test_a_hand_that_cannot_be_dealt_is_named(hand):
    with pytest.raises(ValueError, match="no hand can be played from sum"):
        NumberedBlackjack().reset(options={"state": number(*hand)})


def test_the_dealers_second_card_is_still_drawn():
    # From 20 against a 10 the mean payment is the MDP's: 2,000 games, whose payments lie in
    # [-1, 1]: by Hoeffding's bound 0.15 is exceeded with probability 2 exp(-22.5) < 4e-10.
    env, s = NumberedBlackjack(), number(20, 10, 0)
    env.reset(seed=0)
    total = 0.0
    for _ in range(2000):
        env.reset(options={"state": s})
        total += env.step(STICK)[1]
    assert total / 2000 == pytest.approx(blackjack_mdp().R[s, STICK], abs=0.15)


@pytest.mark.parametrize("rules", [RULES[0], RULES[2]])
def test_whole_games_pay_what_the_mdp_says(rules):
    # A policy that mixes everywhere, 1,500 games: the mean return lies within 5 standard errors
    # of the exact value but for a probability of 6e-7.
    mdp = blackjack_mdp(**rules)
    policy = np.random.default_rng(0).dirichlet([1.0, 1.0], size=STATES)
    policy[[number(NATURAL, card, 1) for card in range(1, 11)]] = [0.9, 0.1]
    exact = mdp.start @ policy_evaluation(mdp, policy, gamma=1.0).V
    env, generator = NumberedBlackjack(**rules), np.random.default_rng(1)
    returns = [sample_episode(env, policy, generator=generator).rewards.sum() for _ in range(1500)]
    error = np.std(returns) / np.sqrt(len(returns))
    assert abs(np.mean(returns) - exact) < 5.0 * error < 0.15


# --- what is in print ----------------------------------------------------------------------------

# Sutton and Barto (2018), figure 5.2: S stick, H hit; columns: showing ace, 2, ..., 10. They note
# that it is Thorp's (1966) basic strategy but for the notch at the ace with a usable ace: Thorp
# sticks on 18 there.
FIGURE_5_2 = {
    0: {
        (17, 21): "SSSSSSSSSS",
        (13, 16): "HSSSSSHHHH",
        (12, 12): "HHHSSSHHHH",
    },
    1: {
        (19, 21): "SSSSSSSSSS",
        (18, 18): "HSSSSSSSHH",
        (12, 17): "HHHHHHHHHH",
    },
}


def figure_5_2() -> np.ndarray:
    """1 where the book hits, [usable ace, sum 12..21, card 1..10]."""
    table = np.full((2, 10, 10), -1)
    for ace, rows in FIGURE_5_2.items():
        for (low, high), letters in rows.items():
            table[ace, low - 12 : high - 11] = [letter == "H" for letter in letters]
    assert (table >= 0).all()
    return table


def test_the_optimal_policy_is_the_books_in_all_200_states():
    solution = policy_iteration(blackjack_mdp(), gamma=1.0)
    states = decision_states()
    assert optimal_actions(solution.Q)[states].sum(axis=-1).max() == 1  # no ties
    ours = solution.Q[states].argmax(axis=-1)
    differ = [
        f"usable {u}, sum {t + 12}, card {c + 1}" for u, t, c in np.argwhere(ours != figure_5_2())
    ]
    assert differ == []
    below = [number(total, card, 0) for total in range(4, 12) for card in range(1, 11)]
    assert (solution.Q[below].argmax(axis=-1) == HIT).all()
    # by how much hitting 18 against an ace is better: the notch is no matter of rounding
    notch = best_value((1, 7), 1) - float(stick_value((1, 7), 1))
    assert np.diff(solution.Q[number(18, 1, 1)]) == pytest.approx(notch, abs=1e-12)
    assert 0.03 < notch < 0.05


@pytest.mark.parametrize("rules", RULES[1:])
def test_the_other_rules_leave_the_policy_alone(rules):
    # They change what a natural pays, and a natural sticks under all of them.
    solution = policy_iteration(blackjack_mdp(**rules), gamma=1.0)
    assert (solution.Q[decision_states()].argmax(axis=-1) == figure_5_2()).all()
    naturals = [number(NATURAL, card, 1) for card in range(1, 11)]
    assert (solution.Q[naturals].argmax(axis=-1) == STICK).all()


def test_optimal_values_against_a_recursion_over_hands():
    mdp = blackjack_mdp()
    solution = policy_iteration(mdp, gamma=1.0)
    game = 0.0
    for first in DRAWS:
        for second in DRAWS:
            for card in DRAWS:
                value = best_value(tuple(sorted((first, second))), card)
                game += float(DRAWS[first] * DRAWS[second] * DRAWS[card]) * value
                hand = [first, second]
                total = NATURAL if is_natural(hand) else sum_hand(hand)
                s = number(total, card, usable_ace(hand))
                assert solution.V[s] == pytest.approx(value, abs=1e-12)
    assert mdp.start @ solution.V == pytest.approx(game, abs=1e-12)
    assert game == pytest.approx(-0.0431131, abs=5e-8)  # what fractions came to


def test_sticking_on_20_and_21_in_print():
    mdp = blackjack_mdp()
    policy = sticking_policy(20)
    V = policy_evaluation(mdp, policy, gamma=1.0).V
    # Sutton and Barto (2018), example 5.4: sum 13 with a usable ace against a deuce is worth
    # -0.27726, the mean of 100 million games. Returns lie in [-1, 1], so its standard error is at
    # most 1e-4, and 4 of them are missed with a probability of 6e-5.
    assert V[number(13, 2, 1)] == pytest.approx(-0.27726, abs=4e-4)
    # 20 against a ten, from the printed totals above: the dealer has less, or is bust, with
    # 3 · 0.1114 + 0.2122 = 0.5464, and more with 0.0345 + 0.0769 = 0.1114
    assert V[number(20, 10, 0)] == pytest.approx(0.5464 - 0.1114, abs=3e-4)
    # figure 5.1: sums that stick are good, and the values jump down where the policy hits
    table = V[decision_states()]
    assert (table[:, 8:, 1:] > 0.4).all()
    assert (table[:, :8] < -0.19).all()


def test_a_sticking_policy_by_hand():
    env = NumberedBlackjack()
    policy = sticking_policy(20)
    for total, ace, action in [(19, 0, HIT), (19, 1, HIT), (20, 0, STICK), (21, 1, STICK)]:
        assert policy[env.state_of((total, 5, ace))].argmax() == action
    assert policy[number(NATURAL, 5, 1)].argmax() == STICK


# --- learning from it ----------------------------------------------------------------------------


def learned_loss(Q: np.ndarray) -> float:
    """What the greedy policy loses per game against the optimum, exactly."""
    mdp = blackjack_mdp()
    policy = epsilon_greedy(Q, 0.0)
    best = policy_iteration(mdp, gamma=1.0).V
    return float(mdp.start @ (best - policy_evaluation(mdp, policy, gamma=1.0).V))


def test_exploring_starts_come_near_the_optimum():
    # After 1,500 games 10 trial seeds lost 0.063 to 0.127; the uniform policy loses 0.351.
    starts = np.flatnonzero(~blackjack_mdp().terminal)
    settings = {"gamma": 1.0, "episodes": 1500, "generator": np.random.default_rng(0)}
    *_, report = monte_carlo_exploring_starts(NumberedBlackjack(), starts, **settings)
    assert learned_loss(report.Q) < 0.2
    assert (np.delete(report.counts, starts, axis=0) == 0).all()


def test_every_learner_runs_on_the_numbers():
    env, settings = NumberedBlackjack(), {"gamma": 1.0, "episodes": 300}
    for learn, more in [
        (monte_carlo_control, {"epsilon": 0.1}),
        (q_learning, {"alpha": 0.1, "epsilon": 0.1}),
    ]:
        *_, report = learn(env, generator=np.random.default_rng(0), **settings, **more)
        assert report.Q.shape == (704, 2)
        assert report.Q.min() >= -1.0
        assert report.Q.max() <= 1.0
        assert report.Q.any()
