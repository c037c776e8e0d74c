"""The exercises of chapter 06: the parts of DQN, and a loop with two bugs.

Letters: M transitions, A actions, F features, N slots. All tensors are 64-bit. Whatever a network
says of the observation after a termination is junk: it must not count. An answer may be filled into
torch.zeros(M), which is 32-bit: hence the tolerances.
"""

import numpy as np
import torch

from rlbook.checks.cases import random_halves
from rlbook.checks.harness import FLOAT32, Exercise, WrongAnswer
from rlbook.functional.value_losses import huber_loss


def dqn_targets(rewards, online_q, slow_q, terminated, truncated, gamma):
    """Targets [M]; online_q and slow_q [M, A] are two networks' values of the next observations."""
    best = slow_q.max(dim=-1).values
    return rewards + gamma * torch.where(terminated, 0.0, best)


def double_dqn_targets(rewards, online_q, slow_q, terminated, gamma):
    """Targets [M]: the online network chooses the next action, the slow one values it."""
    chosen = online_q.argmax(dim=-1, keepdim=True)
    value = slow_q.gather(-1, chosen).squeeze(-1)
    return rewards + gamma * torch.where(terminated, 0.0, value)


def epsilon_at(steps, start, end, over):
    """ε after each number of environment steps: linear from start to end, then constant."""
    progress = np.minimum(steps / over, 1.0)
    return start + progress * (end - start)


def ring_write(memory, added, items):
    """The memory [N] after more items; added were written before, and the oldest give way."""
    memory = memory.copy()
    slots = (added + np.arange(len(items))) % len(memory)
    memory[slots] = items
    return memory


def q_network_loop(w, x, actions, rewards, next_x, terminated, lr, gamma, period):
    """w [F, A] after one gradient step a transition; the targets read a copy, renewed after every
    period steps."""
    w = w.clone().requires_grad_()
    slow = w.detach().clone()  # its own memory, and no gradient
    for t, a in enumerate(actions):
        best = (next_x[t] @ slow).max()
        target = rewards[t] + gamma * torch.where(terminated[t], 0.0, best)
        loss = 0.5 * (target - x[t] @ w[:, a]) ** 2
        w.grad = None  # else the gradients of all steps add up
        loss.backward()
        with torch.no_grad():
            w -= lr * w.grad
        if (t + 1) % period == 0:
            slow = w.detach().clone()
    return w.detach()


# --- cases -----------------------------------------------------------------------------------


def _halves(rng, *shape):
    return torch.tensor(random_halves(rng, shape))


def _distinct(rng, *shape):
    """Values of which no two are alike, so that every choice shows."""
    count = int(np.prod(shape))
    return torch.tensor(rng.permutation(np.arange(count)).reshape(shape) / 2.0)


def _flags(rng, M):
    """One end and one cut at least, never both on one step."""
    kinds = rng.permutation([1, 2, *rng.integers(0, 3, size=M - 2)])
    return torch.tensor(kinds == 1), torch.tensor(kinds == 2)


def _target_cases(rng):
    # 1 + 0.5·6 = 4;  an end: 2;  a cut has a future: 3 + 0.5·4 = 5
    hand = {
        "rewards": torch.tensor([1.0, 2.0, 3.0]).double(),
        "online_q": torch.tensor([[5.0, 1.0], [3.0, 7.0], [0.0, 9.0]]).double(),
        "slow_q": torch.tensor([[2.0, 6.0], [8.0, 5.0], [4.0, 3.0]]).double(),
        "terminated": torch.tensor([False, True, False]),
        "truncated": torch.tensor([False, False, True]),
        "gamma": 0.5,
    }
    cases = [hand]
    for M, A, gamma in [(4, 3, 0.5), (5, 2, 0.9), (3, 4, 0.75), (6, 3, 0.25), (4, 2, 0.5)]:
        terminated, truncated = _flags(rng, M)
        values = _distinct(rng, 2, M, A)
        case = {"rewards": _halves(rng, M), "online_q": values[0], "slow_q": values[1]}
        cases.append(case | {"terminated": terminated, "truncated": truncated, "gamma": gamma})
    return cases


def _double_cases(rng):
    cases = []
    for case in _target_cases(rng):
        cases.append({name: value for name, value in case.items() if name != "truncated"})
    # online likes action 0, slow says 2: 1 + 0.5·2 = 2;  an end: 2;  action 1: 3 + 0.5·3 = 4.5
    return cases


def _huber_cases(rng):
    # δ = 1. Errors ½, -3, 1: ½·¼ = 0.125;  1·(3 - ½) = 2.5;  at the joint ½·1 = 0.5
    hand = {
        "predictions": torch.tensor([1.5, 0.0, 2.0]).double(),
        "targets": torch.tensor([1.0, 3.0, 1.0]).double(),
        "delta": 1.0,
    }
    return [hand] + [
        {
            "predictions": torch.cat([_halves(rng, M), torch.tensor([0.25, -9.0])]),
            "targets": torch.cat([_halves(rng, M), torch.tensor([0.0, 1.0])]),
            "delta": delta,
        }
        for M, delta in [(3, 1.0), (4, 2.0), (3, 0.5), (5, 1.5), (4, 3.0)]
    ]


def _epsilon_cases(rng):
    # from 1 to 0.2 over 100: half way 1 - 0.5·0.8 = 0.6; after the end of the slope 0.2
    hand = {"steps": np.array([0, 50, 100, 300]), "start": 1.0, "end": 0.2, "over": 100}
    return [hand] + [
        {
            "steps": np.sort(rng.integers(0, 2 * over, size=T)),
            "start": start,
            "end": end,
            "over": over,
        }
        for T, start, end, over in [
            (4, 0.8, 0.4, 200),
            (5, 1.0, 0.05, 1000),
            (3, 0.5, 0.1, 80),
            (6, 1.0, 0.1, 400),
            (5, 0.9, 0.3, 50),
        ]
    ]


def _ring_cases(rng):
    # four slots, 6 written before: the next ones are 6 % 4 = 2, then 3, then 0
    hand = {"memory": np.array([4.0, 5.0, 2.0, 3.0]), "added": 6, "items": np.array([6.0, 7.0, 8])}
    return [hand] + [
        {
            "memory": _distinct(rng, N).numpy() * (np.arange(N) < added),
            "added": added,
            "items": 50.0 + _distinct(rng, T).numpy(),
        }
        for N, added, T in [(5, 0, 2), (4, 3, 2), (6, 6, 4), (5, 13, 5), (3, 7, 2), (7, 5, 6)]
    ]


def _loop_cases(rng):
    # One feature, one action, w = 4, lr = γ = ½, a copy after every 2 steps; every reward is 2.
    # slow = 4, target 2 + ½·4 = 4: w stays 4.  An end, target 2: w = 4 - ½ (4 - 2) = 3; slow = 3.
    # Target 2 + ½·3 = 3.5: w = 3 + ½·½ = 3.25.  Again 3.5: w = 3.25 + ½·¼ = 3.375.
    one = torch.ones(4, 1).double()
    hand = {
        "w": torch.tensor([[4.0]]).double(),
        "x": one,
        "actions": torch.zeros(4, dtype=torch.long),
        "rewards": 2.0 * one[:, 0],
        "next_x": one.clone(),
        "terminated": torch.tensor([False, True, False, False]),
        "lr": 0.5,
        "gamma": 0.5,
        "period": 2,
    }
    cases = [hand]
    for F, A, T, period in [(2, 2, 5, 2), (3, 2, 6, 3), (2, 3, 7, 3), (3, 3, 6, 2), (2, 2, 8, 4)]:
        cases.append(
            {
                "w": _distinct(rng, F, A),
                "x": torch.tensor(rng.integers(1, 3, size=(T, F)) / 2.0),
                "actions": torch.tensor(rng.integers(A, size=T)),
                "rewards": _halves(rng, T),
                "next_x": torch.tensor(rng.integers(1, 3, size=(T, F)) / 2.0),
                "terminated": torch.tensor(rng.permutation(T) < T // 4),
                "lr": 0.25,
                "gamma": 0.75,
                "period": period,
            }
        )
    return cases


# --- mistakes --------------------------------------------------------------------------------


def _target_with(future):
    """Targets with another value of what follows."""

    def answer(rewards, online_q, slow_q, terminated, truncated, gamma):
        return rewards + gamma * future(online_q, slow_q, terminated, truncated)

    return answer


def _unless(stopped, value):
    return torch.where(stopped, 0.0, value)


def _best(q):
    return q.max(dim=-1).values


def _undiscounted(rewards, online_q, slow_q, terminated, truncated, gamma):
    return rewards + _unless(terminated, _best(slow_q))


def _nothing_at_the_end(rewards, online_q, slow_q, terminated, truncated, gamma):
    return _unless(terminated, rewards + gamma * _best(slow_q))


def _double_with(value):
    """Double targets with another value of the next observation."""

    def answer(rewards, online_q, slow_q, terminated, gamma):
        return rewards + gamma * _unless(terminated, value(online_q, slow_q))

    return answer


def _of(judge, chooser):
    return judge.gather(-1, chooser.argmax(dim=-1, keepdim=True)).squeeze(-1)


def _double_past_the_end(rewards, online_q, slow_q, terminated, gamma):
    return rewards + gamma * _of(slow_q, online_q)


def _huber_with(piece):
    """Another loss of the error and δ."""
    return lambda predictions, targets, delta: piece(predictions - targets, delta)


def _ring_with(slots):
    """The ring with another rule for where the items go; items without a slot are dropped."""

    def answer(memory, added, items):
        memory = memory.copy()
        for slot, item in zip(slots(added, len(items), len(memory)), items, strict=True):
            if slot < len(memory):
                memory[slot] = item
        return memory

    return answer


def _queue(memory, added, items):
    filled = memory[: min(added, len(memory))]
    kept = np.concatenate([filled, items])[-len(memory) :]
    return np.concatenate([kept, np.zeros(len(memory) - len(kept))])


def _loop_with(
    *, copy="clone", first=None, renew=True, fresh_gradient=True, early=False, factor=0.5, ends=True
):
    """The loop with one or more of its decisions made otherwise."""

    def copied(w, kind=copy):
        kinds = {"clone": w.detach().clone(), "attached": w.clone(), "detach": w.detach()}
        return (kinds | {"alias": w})[kind]

    def answer(w, x, actions, rewards, next_x, terminated, lr, gamma, period):
        w = w.clone().requires_grad_()
        slow = copied(w, first or copy)
        for t, a in enumerate(actions):
            over = terminated[t] if ends else torch.tensor(False)
            target = rewards[t] + gamma * torch.where(over, 0.0, (next_x[t] @ slow).max())
            loss = factor * (target - x[t] @ w[:, a]) ** 2
            if fresh_gradient:
                w.grad = None
            loss.backward()
            with torch.no_grad():
                w -= lr * w.grad
            if renew and (t if early else t + 1) % period == 0:
                slow = copied(w)
        return w.detach()

    return answer


EXERCISES: dict[str, Exercise] = {
    "dqn_targets": Exercise(
        reference=dqn_targets,
        cases=_target_cases,
        tolerance=FLOAT32,
        hint="Three questions, row by row: which network prices the future, which of its actions "
        "counts, and is there a future at all?",
        wrong_answers=(
            WrongAnswer(
                "a target that bootstraps through the end",
                _target_with(lambda online, slow, end, cut: _best(slow)),
                "A network has an opinion of every observation, also of one after which nothing "
                "is earned. Which flag says so?",
            ),
            WrongAnswer(
                "a cut treated as an end",
                _target_with(lambda online, slow, end, cut: _unless(end | cut, _best(slow))),
                "Somebody stopped the clock, but the pole still stood. What is that observation "
                "worth?",
            ),
            WrongAnswer(
                "the end and the cut exchanged",
                _target_with(lambda online, slow, end, cut: _unless(cut, _best(slow))),
                "Which of the two flags says that the world is over?",
            ),
            WrongAnswer(
                "a target from the network that is being trained",
                _target_with(lambda online, slow, end, cut: _unless(end, _best(online))),
                "This target moves with every gradient step. Which of the two stands still?",
            ),
            WrongAnswer(
                "the average over next actions",
                _target_with(lambda online, slow, end, cut: _unless(end, slow.mean(dim=-1))),
                "That values an agent that acts at random. Whose value does Q-learning want?",
            ),
            WrongAnswer(
                "one maximum for the whole batch",
                _target_with(lambda online, slow, end, cut: _unless(end, slow.max())),
                "Each row is another transition. Over which axis do its actions lie?",
            ),
            WrongAnswer(
                "a target without the discount",
                _undiscounted,
                "The next observation's value is earned one step later. What is that worth now?",
            ),
            WrongAnswer(
                "a last step without its reward",
                _nothing_at_the_end,
                "The end takes the future away, but the last reward has been paid.",
            ),
        ),
    ),
    "double_dqn_targets": Exercise(
        reference=double_dqn_targets,
        cases=_double_cases,
        tolerance=FLOAT32,
        hint="Two questions, two networks: which action looks best to the network that learns, and "
        "what does the slow copy say that this very action is worth?",
        wrong_answers=(
            WrongAnswer(
                "plain DQN: the slow network chooses and judges",
                _double_with(lambda online, slow: _best(slow)),
                "What looks best by luck is priced by that luck too. Who else could choose?",
            ),
            WrongAnswer(
                "the online network choosing and judging",
                _double_with(lambda online, slow: _best(online)),
                "Now the other network does both. Split the two jobs.",
            ),
            WrongAnswer(
                "chooser and judge exchanged",
                _double_with(lambda online, slow: _of(online, slow)),
                "The network that learns chooses, and the copy that stands still says the price.",
            ),
            WrongAnswer(
                "the smaller of two maxima",
                _double_with(lambda online, slow: torch.minimum(_best(online), _best(slow))),
                "This is cautious, but each network still judges its own favourite.",
            ),
            WrongAnswer(
                "the maximum of the two networks' mean",
                _double_with(lambda online, slow: _best((online + slow) / 2.0)),
                "A mean of two networks is one network again, with the same noise in both jobs.",
            ),
            WrongAnswer(
                "the action's number instead of its value",
                _double_with(lambda online, slow: online.argmax(dim=-1).double()),
                "The target adds rewards. How much is the chosen action worth?",
            ),
            WrongAnswer(
                "a target that bootstraps through the end",
                _double_past_the_end,
                "After an end nobody has to choose. What is the target then?",
            ),
        ),
    ),
    "huber_loss": Exercise(
        reference=huber_loss,
        cases=_huber_cases,
        tolerance=FLOAT32,
        hint="Take the size of the error first. Near 0 it is a parabola; beyond δ it goes on as a "
        "straight line, and the two must meet in height and in slope.",
        wrong_answers=(
            WrongAnswer(
                "the squared error everywhere",
                _huber_with(lambda e, d: 0.5 * e.square()),
                "A single wild target can still pull as hard as it likes. What happens beyond δ?",
            ),
            WrongAnswer(
                "the absolute error everywhere",
                _huber_with(lambda e, d: d * e.abs()),
                "Its slope jumps from one sign to the other at 0. What is the loss near 0?",
            ),
            WrongAnswer(
                "half the square of the clipped error",
                _huber_with(lambda e, d: 0.5 * e.clamp(-d, d).square()),
                "Beyond δ this is flat: the worst predictions would not be corrected at all. What "
                "did the authors want clipped, the error in the loss or the error in its gradient?",
            ),
            WrongAnswer(
                "a parabola without its half",
                _huber_with(lambda e, d: torch.where(e.abs() <= d, e**2, d * (e.abs() - d / 2))),
                "At δ the two pieces should have the same height. Yours jump there.",
            ),
            WrongAnswer(
                "a parabola for every negative error",
                _huber_with(lambda e, d: torch.where(e <= d, e**2 / 2, d * (e - d / 2))),
                "A prediction may also be far too low. Is an error of -3 below δ in size?",
            ),
            WrongAnswer(
                "a line that does not meet the parabola",
                _huber_with(lambda e, d: torch.where(e.abs() <= d, e**2 / 2, d * e.abs())),
                "At |e| = δ the parabola is δ²/2 high. How high does your line begin?",
            ),
            WrongAnswer(
                "a line of slope 1 whatever δ is",
                _huber_with(lambda e, d: torch.where(e.abs() <= d, e**2 / 2, e.abs() - d / 2)),
                "The parabola arrives at δ with slope δ, and the line should go on with it.",
            ),
            WrongAnswer(
                "the mean over the batch",
                lambda predictions, targets, delta: huber_loss(
                    predictions, targets, delta=delta
                ).mean(),
                "Return one loss for each prediction; whoever trains takes the mean.",
            ),
        ),
    ),
    "epsilon_at": Exercise(
        reference=epsilon_at,
        cases=_epsilon_cases,
        tolerance=FLOAT32,
        hint="Work out first which share of the way has been gone: 0 at the start, 1 from step "
        "over on.",
        wrong_answers=(
            WrongAnswer(
                "a slope that never ends",
                lambda steps, start, end, over: start + steps / over * (end - start),
                "After enough steps your ε is below its end, and then below 0.",
            ),
            WrongAnswer(
                "a slope to 0 that is cut off at the end",
                lambda steps, start, end, over: np.maximum(end, start * (1.0 - steps / over)),
                "This arrives at end too early. Where should it be half way?",
            ),
            WrongAnswer(
                "a slope that falls by 1 over the way",
                lambda steps, start, end, over: np.maximum(end, start - steps / over),
                "How far should ε fall in all, from the first step to the last of the slope?",
            ),
            WrongAnswer(
                "an exponential slope",
                lambda steps, start, end, over: (
                    start * (end / start) ** np.minimum(steps / over, 1.0)
                ),
                "Many people do this, but here every step takes the same amount off.",
            ),
            WrongAnswer(
                "a jump instead of a slope",
                lambda steps, start, end, over: np.where(steps < over, start, end),
                "Start and end are right. What is ε half way?",
            ),
            WrongAnswer(
                "start and end exchanged",
                lambda steps, start, end, over: end + np.minimum(steps / over, 1.0) * (start - end),
                "An agent that knows nothing should explore most. When does yours?",
            ),
        ),
    ),
    "ring_write": Exercise(
        reference=ring_write,
        cases=_ring_cases,
        hint="The slot of an item follows from how many were written before it. What happens when "
        "that count reaches the number of slots?",
        wrong_answers=(
            WrongAnswer(
                "a queue that moves everything",
                _queue,
                "The same items are kept, but a memory of a million frames would be copied at each "
                "step. In a ring nothing that stays is moved.",
            ),
            WrongAnswer(
                "a ring that always begins at slot 0",
                _ring_with(lambda added, T, N: np.arange(T) % N),
                "The second call overwrites the first. Which argument says where it stopped?",
            ),
            WrongAnswer(
                "a ring that leaves out a slot",
                _ring_with(lambda added, T, N: (added + 1 + np.arange(T)) % N),
                "Where does the very first item go, when nothing has been added before?",
            ),
            WrongAnswer(
                "a memory that stops when it is full",
                _ring_with(lambda added, T, N: added + np.arange(T)),
                "The agent changes, and old experience should make room. Which slot is next after "
                "the last one?",
            ),
            WrongAnswer(
                "a memory that piles up in its last slot",
                _ring_with(lambda added, T, N: np.minimum(added + np.arange(T), N - 1)),
                "After the last slot comes the first one again.",
            ),
            WrongAnswer(
                "a ring that is one slot too short",
                _ring_with(lambda added, T, N: (added + np.arange(T)) % (N - 1)),
                "After how many slots does the count begin again? Is the last one ever used?",
            ),
        ),
    ),
    "q_network_loop": Exercise(
        reference=q_network_loop,
        cases=_loop_cases,
        hint="Follow two steps by hand: what is in w.grad before the second backward? "
        "And after w has changed in place, what does slow hold?",
        wrong_answers=(
            WrongAnswer(
                "still the broken loop",
                _loop_with(copy="alias", fresh_gradient=False),
                "Two lines are missing something. Print w.grad before each backward, and slow - w "
                "after each step.",
            ),
            WrongAnswer(
                "the loop half mended: slow is still w itself",
                _loop_with(copy="alias"),
                "The gradients are fresh now. But a second name for a tensor is no copy: the "
                "gradient flows through the target, and the target moves with every step.",
            ),
            WrongAnswer(
                "the loop half mended: the gradients add up",
                _loop_with(fresh_gradient=False),
                "The copy is one now. What does backward do to a gradient that is already there?",
            ),
            WrongAnswer(
                "a copy that shares its memory",
                _loop_with(copy="detach"),
                "No gradient flows through the target any more, but w changes in place, and "
                "detach gives another view of the same numbers.",
            ),
            WrongAnswer(
                "a copy that gradients flow through",
                _loop_with(copy="attached"),
                "clone gives new memory, but the clone remembers where it came from, and backward "
                "goes there. What makes it a constant?",
            ),
            WrongAnswer(
                "a first copy that is a constant and later ones that are not",
                _loop_with(copy="attached", first="clone"),
                "The copy is made in two places. Are the two lines the same?",
            ),
            WrongAnswer(
                "a copy that is never renewed",
                _loop_with(renew=False),
                "The targets are for ever those of the first weights: one reward deep.",
            ),
            WrongAnswer(
                "a copy renewed after the wrong steps",
                _loop_with(early=True),
                "With period = 2 the copy changes after steps 2, 4, 6. After which does yours?",
            ),
            WrongAnswer(
                "a gradient twice as long",
                _loop_with(factor=1.0),
                "The book's squared loss has a factor that makes its gradient the error itself.",
            ),
            WrongAnswer(
                "a loop that bootstraps through the end",
                _loop_with(ends=False),
                "That line was right in the broken loop. What is the target of a last step?",
            ),
        ),
    ),
}
