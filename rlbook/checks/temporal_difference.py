"""The exercises of chapter 05: one update of each kind, and a loop that had two bugs.

V [S] and Q [S, A] are tables, alpha is the step size, gamma the discount. Every answer is a new
table. Whatever a table holds for a terminal state is junk: it must not be read. An answer in
32-bit numbers is right, too (``FLOAT32``).
"""

import numpy as np

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer


def td_update(V, s, reward, s_next, terminated, truncated, alpha, gamma):
    """V after one TD(0) backup of the step from s to s_next."""
    V = V.copy()
    future = 0.0 if terminated else V[s_next]  # a cut has a future, an end has none
    V[s] += alpha * (reward + gamma * future - V[s])
    return V


def expected_sarsa_value(row, epsilon):
    """What a state is worth to an ε-greedy agent, from its action values [A]."""
    return (1.0 - epsilon) * row.max() + epsilon * row.mean()


def q_update(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """Q after one Q-learning backup; the action taken next, a_next, plays no part."""
    Q = Q.copy()
    future = 0.0 if terminated else Q[s_next].max()
    Q[s, a] += alpha * (reward + gamma * future - Q[s, a])
    return Q


def double_q_update(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
    """Q_learner after one double Q-learning backup: it chooses, and Q_judge says what that is
    worth."""
    Q = Q_learner.copy()
    future = 0.0 if terminated else Q_judge[s_next, Q[s_next].argmax()]
    Q[s, a] += alpha * (reward + gamma * future - Q[s, a])
    return Q


def q_learning_loop(Q, next_state, rewards, start, goal, actions, limit, alpha, gamma):
    """Q after the actions, taken one after another: episodes end at goal, or are cut off."""
    Q, s, steps = Q.copy(), start, 0
    for a in actions:
        s_next, steps = next_state[s, a], steps + 1
        terminated, truncated = s_next == goal, steps == limit
        future = 0.0 if terminated else Q[s_next].max()
        Q[s, a] += alpha * (rewards[s, a] + gamma * future - Q[s, a])
        s = s_next
        if terminated or truncated:
            s, steps = start, 0  # only after the update has used s_next
    return Q


# --- cases -----------------------------------------------------------------------------------

ALPHAS = [0.5, 0.25, 0.5, 0.75, 0.25, 0.5, 0.75]
DISCOUNTS = [0.5, 0.9, 0.75, 0.5, 0.8, 0.25, 0.9]
ENDS = [(True, False), (False, True), (False, False), (True, False), (False, True), (False, False)]


def _settings(rng, S):
    """Six times: two different states, a reward, alpha, gamma, and how the step ended."""
    for (terminated, truncated), alpha, gamma in zip(ENDS, ALPHAS, DISCOUNTS, strict=False):
        s, s_next = rng.permutation(S)[:2].tolist()
        step = {"s": s, "reward": float(random_halves(rng, 1)[0]), "s_next": s_next}
        yield step, terminated, truncated, {"alpha": alpha, "gamma": gamma}


def _td_cases(rng):
    # the target is 1 + 0.5·8 = 5, and half the way from 4 to 5 is 4.5
    hand = {"V": np.array([4.0, 8.0, 10.0]), "s": 0, "reward": 1.0, "s_next": 1}
    hand |= {"terminated": False, "truncated": False, "alpha": 0.5, "gamma": 0.5}
    return [hand] + [
        {"V": _distinct(rng, (1, 4))[0]}
        | step
        | {"terminated": terminated, "truncated": truncated}
        | sizes
        for step, terminated, truncated, sizes in _settings(rng, 4)
    ]


def _value_cases(rng):
    # the best action has probability 0.5 + 0.5/2 = 0.75:  0.75·8 + 0.25·4 = 7
    hand = {"row": np.array([4.0, 8.0]), "epsilon": 0.5}
    return [hand] + [
        {"row": _distinct(rng, (1, A))[0], "epsilon": epsilon}
        for A, epsilon in [(3, 0.25), (4, 0.1), (3, 0.75), (5, 0.5), (4, 0.0), (3, 1.0)]
    ]


def _q_cases(rng):
    # the target is 1 + 0.5·8 = 5, whatever is done next, and half the way from 2 to 5 is 3.5
    hand = {"Q": np.array([[2.0, 0.0], [4.0, 8.0], [1.0, 6.0]]), "s": 0, "a": 0, "reward": 1.0}
    hand |= {"s_next": 1, "a_next": 0, "terminated": False, "alpha": 0.5, "gamma": 0.5}
    cases = [hand]
    for step, terminated, _, sizes in _settings(rng, 4):
        Q = _distinct(rng, (4, 3))
        a, a_next = int(rng.integers(3)), int(Q[step["s_next"]].argmin())  # an exploring step
        step |= {"a": a, "a_next": a_next, "terminated": terminated}
        cases.append({"Q": Q} | step | sizes)
    return cases


def _double_cases(rng):
    # the learner likes action 1 best (8), the judge says 6: 1 + 0.5·6 = 4, half way from 2: 3
    hand = {"Q_learner": np.array([[2.0, 0.0], [4.0, 8.0]])}
    hand |= {"Q_judge": np.array([[1.0, 3.0], [7.0, 6.0]]), "s": 0, "a": 0, "reward": 1.0}
    hand |= {"s_next": 1, "terminated": False, "alpha": 0.5, "gamma": 0.5}
    cases = [hand]
    for i, (step, terminated, _, sizes) in enumerate(_settings(rng, 4)):
        step |= {"a": int(rng.integers(3)), "terminated": terminated}
        tables = sorted(_distinct(rng, (2, 4, 3)), key=lambda Q: Q[step["s_next"]].max())
        learner = i // 2 % 2  # the hopeful one and the other learn in turn
        tables = {"Q_learner": tables[learner], "Q_judge": tables[1 - learner]}
        cases.append(tables | step | sizes)
    return cases


def _loop_cases(rng):
    # 0 → 1 → 2, and 2 is the goal; action 1 goes on, action 0 stays; a step pays 2; α = γ = 0.5.
    # Cut after 2 steps. On, on:   Q(0,1) = 0 + 0.5 (2 + 0.5·4 - 0) = 2;  Q(1,1) = 4 + 0.5 (2 - 4)
    # = 3, an end. Then a new episode from 0. Stay, on: Q(0,0) = 0 + 0.5 (2 + 0.5·2 - 0) = 1.5;
    # Q(0,1) = 2 + 0.5 (2 + 0.5·3 - 2) = 2.75, cut, so the next step begins in 0 again:
    # stay: Q(0,0) = 1.5 + 0.5 (2 + 0.5·2.75 - 1.5) = 2.4375.
    hand = {
        "Q": np.array([[0.0, 0.0], [0.0, 4.0], [8.0, 8.0]]),
        "next_state": np.array([[0, 1], [1, 2], [2, 2]]),
        "rewards": np.full((3, 2), 2.0),
        "start": 0,
        "goal": 2,
        "actions": np.array([1, 1, 0, 1, 0]),
        "limit": 2,
        "alpha": 0.5,
        "gamma": 0.5,
    }
    cases = [hand]
    for alpha, gamma, limit in zip(ALPHAS[:6], DISCOUNTS[:6], [2, 3, 4, 3, 2, 4], strict=True):
        world = {
            "Q": _distinct(rng, (4, 3)),
            "next_state": np.array([rng.permutation(4)[:3] for _ in range(4)]),
            "rewards": random_halves(rng, (4, 3)),
        }
        ends = {"start": 0, "goal": 3, "actions": rng.integers(3, size=14), "limit": limit}
        cases.append(world | ends | {"alpha": alpha, "gamma": gamma})
    return cases


def _distinct(rng, shape):
    """Halves of which no two are equal, so that no maximum is a tie; none is 0."""
    values = [half for half in np.arange(-20, 21) / 2.0 if half]
    return rng.permutation(values)[: np.prod(shape)].reshape(shape)


# --- mistakes --------------------------------------------------------------------------------


def _moved(table, where, change):
    table = table.copy()
    table[where] += change
    return table


def _td_with(future, *, step=lambda target, old, alpha: alpha * (target - old)):
    """TD(0) with another future, or another way of moving to the target."""

    def answer(V, s, reward, s_next, terminated, truncated, alpha, gamma):
        target = reward + gamma * future(V[s_next], terminated, truncated)
        return _moved(V, s, step(target, V[s], alpha))

    return answer


def _until_the_end(value, terminated, _):
    return 0.0 if terminated else value


def _next_state_changed(V, s, reward, s_next, terminated, truncated, alpha, gamma):
    future = _until_the_end(V[s_next], terminated, truncated)
    return _moved(V, s_next, alpha * (reward + gamma * future - V[s]))


def _cut_skipped(V, s, reward, s_next, terminated, truncated, alpha, gamma):
    if truncated:
        return V.copy()
    return td_update(V, s, reward, s_next, terminated, truncated, alpha, gamma)


def _undiscounted(V, s, reward, s_next, terminated, truncated, alpha, gamma):
    return td_update(V, s, reward, s_next, terminated, truncated, alpha, 1.0)


def _q_with(future, *, step=lambda target, old, alpha: alpha * (target - old)):
    """Q-learning with another future, or another way of moving to the target."""

    def answer(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
        target = reward
        if not terminated:
            target += gamma * future(Q, s, a, s_next, a_next)
        return _moved(Q, (s, a), step(target, Q[s, a], alpha))

    return answer


def _best_next(Q, s, a, s_next, a_next):
    return Q[s_next].max()


def _q_past_the_end(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    return q_update(Q, s, a, reward, s_next, a_next, False, alpha, gamma)


def _q_undiscounted(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    return q_update(Q, s, a, reward, s_next, a_next, terminated, alpha, 1.0)


def _last_step_skipped(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    if terminated:
        return Q.copy()
    return q_update(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma)


def _double_with(future):
    """Double Q-learning with another value of the next state."""

    def answer(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
        later = 0.0 if terminated else future(Q_learner[s_next], Q_judge[s_next])
        change = alpha * (reward + gamma * later - Q_learner[s, a])
        return _moved(Q_learner, (s, a), change)

    return answer


def _double_past_the_end(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
    return double_q_update(Q_learner, Q_judge, s, a, reward, s_next, False, alpha, gamma)


def _double_undiscounted(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
    return double_q_update(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, 1.0)


def _judges_old_value(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
    future = 0.0 if terminated else Q_judge[s_next, Q_learner[s_next].argmax()]
    return _moved(Q_learner, (s, a), alpha * (reward + gamma * future - Q_judge[s, a]))


def _both_tables(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
    step = (s, a, reward, s_next, terminated, alpha, gamma)
    one = double_q_update(Q_learner, Q_judge, *step)
    return np.stack([one, double_q_update(Q_judge, Q_learner, *step)])


def _judge_moved(Q_learner, Q_judge, s, a, reward, s_next, terminated, alpha, gamma):
    future = 0.0 if terminated else Q_judge[s_next, Q_learner[s_next].argmax()]
    return _moved(Q_judge, (s, a), alpha * (reward + gamma * future - Q_judge[s, a]))


def _loop_with(
    *,
    end_has_future=False,
    cut_has_future=True,
    fresh_start_read=False,
    cut_restarts=True,
    clock_restarts=True,
    late=0,
):
    """The loop with one or more of its decisions made otherwise."""

    def answer(Q, next_state, rewards, start, goal, actions, limit, alpha, gamma):
        Q, s, steps = Q.copy(), start, 0
        for a in actions:
            landing, steps = next_state[s, a], steps + 1
            terminated, truncated = landing == goal, steps == limit + late
            restarts = terminated or (truncated and cut_restarts)
            read = start if fresh_start_read and restarts else landing
            future = Q[read].max()
            if (terminated and not end_has_future) or (truncated and not cut_has_future):
                future = 0.0
            Q[s, a] += alpha * (rewards[s, a] + gamma * future - Q[s, a])
            s = start if restarts else landing
            if restarts and clock_restarts:
                steps = 0
        return Q

    return answer


def _goal_row_zeroed(Q, next_state, rewards, start, goal, actions, limit, alpha, gamma):
    Q = Q.copy()
    Q[goal] = 0.0
    rest = (next_state, rewards, start, goal, actions, limit, alpha, gamma)
    return q_learning_loop(Q, *rest)


EXERCISES: dict[str, Exercise] = {
    "td_update": Exercise(
        reference=td_update,
        cases=_td_cases,
        tolerance=FLOAT32,
        hint="Ask first whether anything follows s_next; then move V[s], and only V[s], a part "
        "alpha of the way to the target.",
        wrong_answers=(
            WrongAnswer(
                "a cut treated as an end",
                _td_with(lambda v, terminated, truncated: 0.0 if terminated or truncated else v),
                "Somebody stopped watching, but the world goes on. What is s_next still worth?",
            ),
            WrongAnswer(
                "a future beyond the end",
                _td_with(lambda v, terminated, truncated: v),
                "After a terminal state nothing is earned. What is V worth there, whatever the "
                "table says?",
            ),
            WrongAnswer(
                "the end and the cut exchanged",
                _td_with(lambda v, terminated, truncated: 0.0 if truncated else v),
                "Which of the two flags says that the world is over?",
            ),
            WrongAnswer(
                "a cut from which nothing is learned",
                _cut_skipped,
                "The step before the cut was made, and its reward was paid. Why throw it away?",
            ),
            WrongAnswer(
                "a target without the discount",
                _undiscounted,
                "The next state's value is earned one step later. What is that worth now?",
            ),
            WrongAnswer(
                "going the whole way to the target",
                _td_with(_until_the_end, step=lambda target, old, alpha: target - old),
                "One step is noisy evidence. Which argument says how far to trust it?",
            ),
            WrongAnswer(
                "adding the target without taking the old value off",
                _td_with(_until_the_end, step=lambda target, old, alpha: alpha * target),
                "If the target equals the old value there is nothing to learn. Does your V[s] stay "
                "as it was then?",
            ),
            WrongAnswer(
                "the TD error with its sign turned",
                _td_with(_until_the_end, step=lambda target, old, alpha: alpha * (old - target)),
                "When the target is above V[s], V[s] should rise. Does yours?",
            ),
            WrongAnswer(
                "an update of the next state",
                _next_state_changed,
                "The step tells how good it was to be in the state that was left.",
            ),
        ),
    ),
    "expected_sarsa_value": Exercise(
        reference=expected_sarsa_value,
        cases=_value_cases,
        tolerance=FLOAT32,
        hint="Write down the probability of each action first. Exploring, the agent may draw the "
        "best action too.",
        wrong_answers=(
            WrongAnswer(
                "the value for a greedy agent",
                lambda row, epsilon: row.max(),
                "That is Q-learning's answer. What does this agent do in a share ε of its steps?",
            ),
            WrongAnswer(
                "the value for an agent that only explores",
                lambda row, epsilon: row.mean(),
                "All actions are alike here. When does the agent take its best one on purpose?",
            ),
            WrongAnswer(
                "exploring and exploiting exchanged",
                lambda row, epsilon: epsilon * row.max() + (1.0 - epsilon) * row.mean(),
                "At ε = 0 the agent is greedy. Is your answer the maximum then?",
            ),
            WrongAnswer(
                "exploring among the other actions only",
                lambda row, epsilon: (
                    (1.0 - epsilon) * row.max() + epsilon * (row.sum() - row.max()) / (len(row) - 1)
                ),
                "A random action is drawn from all of them: the best one gets its share of ε too.",
            ),
            WrongAnswer(
                "probabilities that add up to more than 1",
                lambda row, epsilon: (1.0 - epsilon) * row.max() + epsilon * row.sum(),
                "ε is shared out among the actions: how much of it does each one get?",
            ),
            WrongAnswer(
                "probabilities that add up to less than 1",
                lambda row, epsilon: (
                    (1.0 - epsilon) * row.max() + epsilon * (row.sum() - row.max()) / len(row)
                ),
                "The others get ε/A each, and the best gets 1 - ε. What is missing from 1?",
            ),
        ),
    ),
    "q_update": Exercise(
        reference=q_update,
        cases=_q_cases,
        tolerance=FLOAT32,
        hint="The target is the reward plus γ times the best that can be done from s_next, unless "
        "nothing follows. Then move Q[s, a] a part alpha of the way.",
        wrong_answers=(
            WrongAnswer(
                "SARSA's target, not Q-learning's",
                _q_with(lambda Q, s, a, s_next, a_next: Q[s_next, a_next]),
                "Q-learning asks what the best next action is worth, not the one that was taken.",
            ),
            WrongAnswer(
                "the old value and the target with opposite signs",
                _q_with(_best_next, step=lambda target, old, alpha: -alpha * old - alpha * target),
                "(1 - α) and α weigh two numbers and average them: both are added.",
            ),
            WrongAnswer(
                "a maximum over states",
                _q_with(lambda Q, s, a, s_next, a_next: Q[:, a].max()),
                "The agent is in s_next and cannot choose another state. What can it choose?",
            ),
            WrongAnswer(
                "a maximum over the whole table",
                _q_with(lambda Q, s, a, s_next, a_next: Q.max()),
                "Only one row of Q is about what can be done from s_next.",
            ),
            WrongAnswer(
                "the best action's number instead of its value",
                _q_with(lambda Q, s, a, s_next, a_next: Q[s_next].argmax()),
                "The target adds rewards; an action's number is no reward. How much is it worth?",
            ),
            WrongAnswer(
                "looking back to the state that was left",
                _q_with(lambda Q, s, a, s_next, a_next: Q[s].max()),
                "The future begins where the step has led.",
            ),
            WrongAnswer(
                "the average over next actions",
                _q_with(lambda Q, s, a, s_next, a_next: Q[s_next].mean()),
                "That is the value for an agent that acts at random. For which one do you want it?",
            ),
            WrongAnswer(
                "bootstrapping through the end",
                _q_past_the_end,
                "When the step has ended the episode there is no next action. What is the target?",
            ),
            WrongAnswer(
                "a last step from which nothing is learned",
                _last_step_skipped,
                "There is no future at the end, but there is a reward. Where is it learned?",
            ),
            WrongAnswer(
                "a target without the discount",
                _q_undiscounted,
                "What can be earned from s_next is earned one step later. What is that worth now?",
            ),
            WrongAnswer(
                "going the whole way to the target",
                _q_with(_best_next, step=lambda target, old, alpha: target - old),
                "One step is noisy evidence. Which argument says how far to trust it?",
            ),
            WrongAnswer(
                "adding the target without taking the old value off",
                _q_with(_best_next, step=lambda target, old, alpha: alpha * target),
                "A share α of the old value has to make room for the target.",
            ),
        ),
    ),
    "double_q_update": Exercise(
        reference=double_q_update,
        cases=_double_cases,
        tolerance=FLOAT32,
        hint="Two questions, two tables: which action is best in s_next, and what is it worth?",
        wrong_answers=(
            WrongAnswer(
                "plain Q-learning: the chooser judges itself",
                _double_with(lambda mine, other: mine.max()),
                "An action that looks best by luck is praised by the very luck. Who else can say "
                "what it is worth?",
            ),
            WrongAnswer(
                "the judge's own favourite",
                _double_with(lambda mine, other: other.max()),
                "The judge both chooses and judges here. Whose choice should it price?",
            ),
            WrongAnswer(
                "chooser and judge exchanged",
                _double_with(lambda mine, other: mine[other.argmax()]),
                "The table that learns chooses the action; the other one says what it is worth.",
            ),
            WrongAnswer(
                "the maximum of the two tables' mean",
                _double_with(lambda mine, other: ((mine + other) / 2.0).max()),
                "A mean of two tables is one table again, which chooses and judges with the same "
                "noise.",
            ),
            WrongAnswer(
                "the smaller of two maxima",
                _double_with(lambda mine, other: min(mine.max(), other.max())),
                "This is cautious, but each table still judges its own favourite.",
            ),
            WrongAnswer(
                "an action chosen by both tables together",
                _double_with(lambda mine, other: other[(mine + other).argmax()]),
                "The agent acts by both tables. In the target one chooses alone, or the judge "
                "would have a say in what it prices.",
            ),
            WrongAnswer(
                "the judge's old value taken off",
                _judges_old_value,
                "The learner moves from where the learner stands. Whose old value do you take off?",
            ),
            WrongAnswer(
                "a target without the discount",
                _double_undiscounted,
                "What can be earned from s_next is earned one step later. What is that worth now?",
            ),
            WrongAnswer(
                "both tables updated at once",
                _both_tables,
                "A coin decides which table learns from a step, so that the two see different "
                "noise. Return the one that learns.",
            ),
            WrongAnswer(
                "an update of the judge",
                _judge_moved,
                "The target is right, but the table that chose is the one that learns.",
            ),
            WrongAnswer(
                "bootstrapping through the end",
                _double_past_the_end,
                "When the step has ended the episode nobody has to choose. What is the target?",
            ),
        ),
    ),
    "q_learning_loop": Exercise(
        reference=q_learning_loop,
        cases=_loop_cases,
        tolerance=FLOAT32,
        hint="Walk through the last step of an episode line by line. Whose values does its target "
        "read, and should it read any? Ask twice: for an end, and for a cut.",
        wrong_answers=(
            WrongAnswer(
                "still the broken loop",
                _loop_with(end_has_future=True, fresh_start_read=True),
                "Follow one step that reaches the goal: which state's values does its target read?",
            ),
            WrongAnswer(
                "the loop half mended: a cut still reads the next episode",
                _loop_with(fresh_start_read=True),
                "Ends are right now. Where was the agent when the clock cut it off, and where does "
                "your target look?",
            ),
            WrongAnswer(
                "the loop half mended: an end still has a future",
                _loop_with(end_has_future=True),
                "The target reads the state that was reached, as it should. But what is left to "
                "earn at the goal?",
            ),
            WrongAnswer(
                "a loop that takes a cut for an end",
                _loop_with(cut_has_future=False),
                "At the limit somebody stops the clock. Is the state that was reached worthless?",
            ),
            WrongAnswer(
                "a table whose row for the goal was overwritten",
                _goal_row_zeroed,
                "With zeros there the goal has no future, indeed. But the row is not yours to "
                "change: let the target ask whether the episode has ended.",
            ),
            WrongAnswer(
                "a loop that goes on after a cut",
                _loop_with(cut_restarts=False),
                "After a cut the next action is taken at the start, not where the agent stood.",
            ),
            WrongAnswer(
                "a loop whose clock is never wound back",
                _loop_with(clock_restarts=False),
                "Each episode has its own limit. Where does the count of steps begin again?",
            ),
            WrongAnswer(
                "a loop that cuts one step late",
                _loop_with(late=1),
                "With limit = 2 an episode has at most two steps. How many has yours?",
            ),
        ),
    ),
}
