"""Blackjack, exactly: Gymnasium's Blackjack-v1 with numbered states, and the same game as an MDP.

A state is (player's sum, dealer's showing card, usable ace), where the ace shows as 1. Gymnasium
shows a natural (an ace and a ten-valued card, the first two) as a sum of 21 with a usable ace,
like any other such 21, although it is paid better: what the player sees does not tell what he
is paid. Here a natural has the sum 22 with a usable ace, which no other hand can have, so the
states are Markov and the MDP is exact.

Cards come from an infinite deck: ace to nine 1/13 each, ten-valued cards 4/13.
"""

import functools
from typing import Any

import numpy as np
from gymnasium.envs.toy_text.blackjack import BlackjackEnv
from jaxtyping import Float, Int

from rlbook.tabular.mdp import MDP, deterministic_policy
from rlbook.tabular.numbering import NumberedObservations

STICK, HIT = 0, 1
SIZES = (32, 11, 2)  # player's sum 0..31, dealer's card 0..10, usable ace 0..1
STATES = int(np.prod(SIZES))
NATURAL = 22  # the "sum" of an ace and a ten-valued card: it beats 21
BUST = 0  # the score of a dealer who is over 21
CARD_PROBABILITIES = {**dict.fromkeys(range(1, 10), 1 / 13), 10: 4 / 13}
OVER = 0  # the state (0, 0, 0), which no game shows: where the MDP goes when the player sticks


class NumberedBlackjack(NumberedObservations):
    """Gymnasium's Blackjack with one number per state, and naturals told apart (sum 22).

    The state (sum, card, ace) has the number (sum · 11 + card) · 2 + ace, of 704: the numbers of
    ``blackjack_mdp``. Actions are 0 stick and 1 hit. After sticking the environment shows the
    last state again, with ``terminated`` true.

    Args:
        natural: pay 1.5 for winning with a natural; ignored where sab is true.
        sab: the rules of Sutton and Barto: a natural wins unless the dealer has one too.

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), example 5.1.
    """

    def __init__(self, *, natural: bool = False, sab: bool = True) -> None:
        super().__init__(BlackjackEnv(natural=natural, sab=sab))

    def observation(self, observation: Any) -> int:
        """The number of the state, where a natural counts as 22."""
        total, card, ace = observation
        if ace and total == 21 and len(self.unwrapped.player) == 2:
            total = NATURAL
        return (total * SIZES[1] + card) * SIZES[2] + ace

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        """Deal; ``options={"state": s}`` deals a hand of state s (the dealer's second card is
        drawn as ever)."""
        state, info = super().reset(seed=seed)
        if options and "state" in options:
            state = int(options["state"])
            total, card, ace = self.observation_of(state)
            self.unwrapped.player = list(_hand(total, card, ace))
            self.unwrapped.dealer[0] = card
        return state, info


def blackjack_mdp(*, natural: bool = False, sab: bool = True) -> MDP:
    """The game that ``NumberedBlackjack`` plays, as an MDP with 704 states and 2 actions.

        R(s, stick) = Σ_t Pr(the dealer ends with t | showing card) · payment(player's sum, t)
        R(s, hit)   = - Pr(the sum exceeds 21)

    Hitting leads to the states that the environment shows; over 21 they are terminal. Sticking
    leads to state 0. A number that no game shows is terminal too. Use gamma = 1.

    Args:
        natural, sab: the rules, as for ``NumberedBlackjack``.

    Book: 04_monte_carlo. Source: Sutton and Barto (2018), example 5.1; rules as in Gymnasium 1.4.
    """
    P, R = np.zeros((STATES, 2, STATES)), np.zeros((STATES, 2))
    terminal, start = np.ones(STATES, bool), np.zeros(STATES)
    dealer = dealer_totals()
    for total, ace in _playable_hands():
        for card in CARD_PROBABILITIES:
            s = _number(total, card, ace)
            terminal[s] = False
            P[s, STICK, OVER] = 1.0
            R[s, STICK] = sum(
                probability * payment(total, dealer_total, natural=natural, sab=sab)
                for dealer_total, probability in enumerate(dealer[card])
                if probability > 0.0
            )
            for drawn, probability in CARD_PROBABILITIES.items():
                next_total, next_ace = add_card(min(total, 21), ace, drawn)
                P[s, HIT, _number(next_total, card, next_ace)] += probability
                R[s, HIT] -= probability * (next_total > 21)
            start[s] = CARD_PROBABILITIES[card] * _deals().get((total, ace), 0.0)
    return MDP.absorbing(P, R, terminal, start)


def add_card(total: int, ace: int, card: int) -> tuple[int, int]:
    """Sum and usable ace after one more card: an ace counts 11 as long as that does not bust.

    A hand with sum 17 and a usable ace that draws a nine: 17 - 10 + 9 = 16, no usable ace.
    """
    hard = total - 10 * ace + card  # every ace counts 1
    usable = int((ace or card == 1) and hard + 10 <= 21)
    return hard + 10 * usable, usable


@functools.cache
def dealer_totals() -> Float[np.ndarray, "cards totals"]:
    """Pr(the dealer ends with a total | showing card), drawing up to 17 or more.

    Returns:
        [11, 23], row: showing card 1..10 (row 0 is empty); column: 0 for bust, 17..21, and 22
        for a natural. Each row but the first sums to 1. Read-only.
    """
    table = np.zeros((SIZES[1], NATURAL + 1))
    for showing in CARD_PROBABILITIES:
        for hidden, probability in CARD_PROBABILITIES.items():
            if {showing, hidden} == {1, 10}:
                table[showing, NATURAL] += probability
            else:
                total, ace = add_card(*add_card(0, 0, showing), hidden)
                table[showing] += probability * _dealer_draws(total, ace)
    table.flags.writeable = False
    return table


@functools.cache
def _dealer_draws(total: int, ace: int) -> Float[np.ndarray, " totals"]:
    if total >= 17:
        return np.eye(NATURAL + 1)[total if total <= 21 else BUST]
    return sum(
        probability * _dealer_draws(*add_card(total, ace, card))
        for card, probability in CARD_PROBABILITIES.items()
    )


def payment(player: int, dealer: int, *, natural: bool = False, sab: bool = True) -> float:
    """What the player wins who sticks with a total, against the dealer's total.

    Totals are 4..21, 22 for a natural, and 0 for a dealer who is bust. Gymnasium's rules: a
    dealer's natural counts as 21 against a player's other 21. With ``sab`` a player's natural
    wins unless the dealer has one too; else it counts as 21, and a win with it pays 1.5 if
    ``natural``.
    """
    if sab and player == NATURAL:
        return float(dealer != NATURAL)
    difference = min(player, 21) - min(dealer, 21)
    if natural and not sab and player == NATURAL and difference > 0:
        return 1.5
    return float(np.sign(difference))


def decision_states() -> Int[np.ndarray, "ace sum card"]:
    """The 200 states in which there is a choice, [2, 10, 10]: usable ace, sum 12..21, card 1..10.

    Below 12 hitting cannot bust. ``V[decision_states()]`` is two tables: without a usable ace
    and with one, a row per sum and a column per showing card.
    """
    ace, total, card = np.indices((2, 10, 10))
    return _number(total + 12, card + 1, ace)


def sticking_policy(least: int) -> Float[np.ndarray, "S A"]:
    """The policy that sticks on ``least`` or more (a natural included) and hits below it."""
    total = np.arange(STATES) // (SIZES[1] * SIZES[2])
    return deterministic_policy(np.where(total >= least, STICK, HIT), 2)


def _number(total: Any, card: Any, ace: Any) -> Any:
    return (total * SIZES[1] + card) * SIZES[2] + ace


def _playable_hands() -> list[tuple[int, int]]:
    """(sum, usable ace) of the hands that can go on: 4..21 without, 12..21 with, and a natural."""
    return [*((t, 0) for t in range(4, 22)), *((t, 1) for t in range(12, 22)), (NATURAL, 1)]


@functools.cache
def _deals() -> dict[tuple[int, int], float]:
    """Probability of each (sum, usable ace) after two cards."""
    deals: dict[tuple[int, int], float] = {}
    for first, p in CARD_PROBABILITIES.items():
        for second, q in CARD_PROBABILITIES.items():
            hand = add_card(*add_card(0, 0, first), second)
            hand = (NATURAL, 1) if {first, second} == {1, 10} else hand
            deals[hand] = deals.get(hand, 0.0) + p * q
    return deals


@functools.cache
def _hand(total: int, card: int, ace: int) -> tuple[int, ...]:
    """Cards that make up a state: any will do, since only sum, ace and natural matter."""
    if (total, ace) not in _playable_hands() or card == 0:
        raise ValueError(
            f"no hand can be played from sum {total}, showing card {card}, usable ace {ace}: "
            "sums are 4..21 without a usable ace, 12..21 with one, 22 for a natural"
        )
    if total == NATURAL:
        return (1, 10)
    if ace:
        return (1, total - 11) if total < 21 else (1, 5, 5)
    return (2, total - 2) if total <= 12 else (10, 2, total - 12)
