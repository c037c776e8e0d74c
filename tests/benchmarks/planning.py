"""Planning against quantecon.markov and pymdptoolbox: the same MDPs to the same accuracy.

    python tests/benchmarks/planning.py --json [--seeds 0 1 2]

Every library solves every MDP with each of its methods, one after another in one process and in
several rounds; the median of a method counts, and the best method of a library is compared. Only
the solve is timed: building the MDP, and the objects of the other libraries, is not. quantecon's
compilation is taken out by a warm-up.

Accuracy. EPSILON = 1e-6 in units of reward, and each library's own meaning of it:
  ours       error_bound ≤ tol: no value is further than tol from the optimal one;
  quantecon  epsilon-optimality: V and the policy's values within epsilon/2 and epsilon;
  mdptoolbox an epsilon-optimal policy; its V may miss by more, so the *policy* is judged.
Everyone's answer is judged alike: the policy is evaluated exactly (a linear solve) and must be
within EPSILON of the reference, which is policy iteration or, on the largest grid, value
iteration to 1e-10. The error of V itself is in the details.

Left out, each for taking minutes: quantecon's and our policy iteration on the 300 x 300 grid,
mdptoolbox there, and all of its methods but value iteration on the 100 x 100 grid and the
Garnet.
"""

import argparse
import copy
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from rlbook.tabular.gridworld import GridWorld
from rlbook.tabular.mdp import MDP
from rlbook.tabular.planning import (
    modified_policy_iteration,
    policy_evaluation,
    policy_iteration,
    value_iteration,
)

GAMMA = 0.99
EPSILON = 1e-6
ROUNDS = 3
MANY = 10**6  # more sweeps than anyone needs

Answer = tuple[np.ndarray, np.ndarray]  # V [S] and one action per state [S]
Method = Callable[[], Answer]


# --- the MDPs ---


def slippery_grid(size: int, seed: int) -> MDP:
    """An open size x size room with a tenth of its cells costing more, slip 0.2."""
    cells = np.where(np.random.default_rng(seed).random((size, size)) < 0.1, "~", ".")
    cells[0, 0], cells[-1, -1] = "S", "G"
    text = "\n".join("".join(row) for row in cells)
    return GridWorld(text, slip=0.2, rewards={"~": -1.0, "G": 10.0}).mdp(as_sparse=True)


def garnet(S: int, A: int, branching: int, seed: int, *, as_sparse: bool) -> MDP:
    """A random MDP: ``branching`` successors per (s, a), Dirichlet weights, rewards N(0, 1)."""
    generator = np.random.default_rng(seed)
    successors = generator.integers(S, size=(S * A, branching))
    weights = generator.dirichlet(np.ones(branching), size=S * A)
    rows = np.repeat(np.arange(S * A), branching)
    P: Any = sparse.csr_array((weights.ravel(), (rows, successors.ravel())), shape=(S * A, S))
    P = P if as_sparse else P.toarray().reshape(S, A, S)
    return MDP(P, generator.normal(size=(S, A)))


def problems(seed: int) -> dict[str, MDP]:
    return {
        "grid100": slippery_grid(100, seed),
        "garnet2000x8": garnet(2_000, 8, 8, seed, as_sparse=True),
        "dense300x10": garnet(300, 10, 300, seed, as_sparse=False),
        "grid300": slippery_grid(300, seed),
    }


# --- the libraries ---


def ours(mdp: MDP, name: str) -> dict[str, Method]:
    def read(solution: Any) -> Answer:
        return solution.V, solution.policy.argmax(axis=1)

    methods: dict[str, Method] = {
        "value_iteration": lambda: read(value_iteration(mdp, gamma=GAMMA, tol=EPSILON)),
        "modified_policy_iteration": lambda: read(
            modified_policy_iteration(mdp, gamma=GAMMA, tol=EPSILON)
        ),
    }
    if not name.startswith("grid300"):
        methods["policy_iteration"] = lambda: read(policy_iteration(mdp, gamma=GAMMA))
    return methods


def quantecon(mdp: MDP, name: str) -> dict[str, Method]:
    from quantecon.markov import DiscreteDP

    state, action = np.divmod(np.arange(mdp.S * mdp.A), mdp.A)
    rows = sparse.csr_matrix(mdp.rows)
    problem = DiscreteDP(mdp.R.ravel(), rows, GAMMA, state, action)

    def solve(method: str) -> Method:
        def run() -> Answer:
            result = problem.solve(method=method, epsilon=EPSILON, max_iter=MANY)
            return result.v, result.sigma

        return run

    names = ("vi", "mpi") if name.startswith("grid300") else ("vi", "mpi", "pi")
    return {method: solve(method) for method in names}


def mdptoolbox(mdp: MDP, name: str) -> dict[str, Method]:
    if name.startswith("grid300"):
        return {}
    from mdptoolbox import mdp as toolbox

    rows = sparse.csr_matrix(mdp.rows)
    matrices = [sparse.csr_matrix(rows[np.arange(mdp.S) * mdp.A + a]) for a in range(mdp.A)]
    if not mdp.is_sparse:
        matrices = [matrix.toarray() for matrix in matrices]

    def solve(cls: Any, **arguments: Any) -> Method:
        pristine = cls(matrices, mdp.R, GAMMA, **arguments)
        planner = [pristine]

        def prepare() -> None:
            planner[0] = copy.deepcopy(pristine)  # a planner of mdptoolbox runs once

        def run() -> Answer:
            planner[0].run()
            return np.array(planner[0].V), np.array(planner[0].policy)

        run.prepare = prepare
        return run

    limit = {"max_iter": MANY}
    methods = {"ValueIteration": solve(toolbox.ValueIteration, epsilon=EPSILON, **limit)}
    if name in ("grid100", "garnet2000x8"):
        return methods
    return methods | {
        "PolicyIterationModified": solve(toolbox.PolicyIterationModified, epsilon=EPSILON, **limit),
        "PolicyIteration": solve(toolbox.PolicyIteration, **limit),
    }


LIBRARIES = {"ours": ours, "quantecon": quantecon, "mdptoolbox": mdptoolbox}


# --- timing and judging ---


def timed(method: Method) -> tuple[float, Answer]:
    getattr(method, "prepare", lambda: None)()
    begin = time.perf_counter()
    answer = method()
    return time.perf_counter() - begin, answer


def errors(mdp: MDP, answer: Answer, reference: np.ndarray, exact: bool) -> dict[str, float]:
    """How far V, and the values of the policy, are from the reference."""
    V, actions = answer
    method = {} if exact else {"method": "iterative", "tol": 1e-9}
    policy = np.eye(mdp.A)[np.asarray(actions, int)]
    achieved = policy_evaluation(mdp, policy, gamma=GAMMA, **method).V
    return {
        "V_error": float(np.abs(V - reference).max()),
        "policy_loss": float((reference - achieved).max()),
    }


def compare(name: str, mdp: MDP, failures: dict[str, str]) -> dict[str, dict]:
    """Every method of every library on one MDP: its median seconds and its errors."""
    small = not name.startswith("grid300")
    if small:
        reference = policy_iteration(mdp, gamma=GAMMA).V
    else:
        reference = value_iteration(mdp, gamma=GAMMA, tol=1e-10).V
    methods: dict[tuple[str, str], Method] = {}
    for library, make in LIBRARIES.items():
        if library not in failures:
            try:
                methods |= {(library, key): run for key, run in make(mdp, name).items()}
            except Exception as problem:  # a peer may not import or not fit this numpy
                failures[library] = f"{type(problem).__name__}: {problem}"
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in methods}
    judged: dict[tuple[str, str], dict[str, float]] = {}
    hopeless: set[tuple[str, str]] = set()
    for _ in range(ROUNDS):
        for key, method in methods.items():
            if key in hopeless:
                continue
            try:
                spent, answer = timed(method)
            except Exception as problem:
                print(f"{name}, {key}: {type(problem).__name__}: {problem}", file=sys.stderr)
                failures.setdefault("/".join(key), f"{type(problem).__name__}: {problem}")
                hopeless.add(key)
                continue
            seconds[key].append(spent)
            if key not in judged:
                judged[key] = errors(mdp, answer, reference, exact=small)
            best = min(min(s) for k, s in seconds.items() if k[0] == key[0] and s)
            if spent > 1.0 and spent > 3.0 * best:
                hopeless.add(key)  # one time is enough to know it is not the best
    details: dict[str, dict] = {}
    for (library, method), spent in seconds.items():
        if spent:
            details.setdefault(library, {})[method] = {
                "seconds": statistics.median(spent),
                "rounds": len(spent),
                **judged[library, method],
            }
    return details


def best(methods: dict[str, dict]) -> tuple[str, float] | None:
    """The fastest method of a library that reached the accuracy."""
    reached = {
        name: found["seconds"] for name, found in methods.items() if found["policy_loss"] <= EPSILON
    }
    return min(reached.items(), key=lambda item: item[1]) if reached else None


def geometric_mean(ratios: list[float]) -> float | None:
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()

    warnings.simplefilter("ignore", sparse.SparseEfficiencyWarning)  # mdptoolbox's own checks
    failures: dict[str, str] = {}
    warm_up = garnet(20, 2, 3, 0, as_sparse=True)
    for library, make in LIBRARIES.items():
        try:
            for run in make(warm_up, "warm-up").values():
                timed(run)
        except Exception as problem:
            failures[library] = f"{type(problem).__name__}: {problem}"
            print(f"{library} is left out: {failures[library]}", file=sys.stderr)

    ratios: dict[str, list[float]] = {"quantecon": [], "mdptoolbox": []}
    grid300: list[float] = []
    details: dict[str, Any] = {}
    print(f"{'MDP':<20}{'library':<12}{'method':<28}{'seconds':>9}{'V error':>11}{'loss':>11}")
    for seed in arguments.seeds:
        for name, mdp in problems(seed).items():
            found = compare(name, mdp, failures)
            label = f"{name}/seed{seed}"
            winners = {library: best(methods) for library, methods in found.items()}
            entry = details[label] = {
                "methods": found,
                "best": {library: win[0] for library, win in winners.items() if win},
            }
            for library, methods in found.items():
                for method, row in methods.items():
                    mark = "*" if winners[library] and winners[library][0] == method else " "
                    print(
                        f"{label:<20}{library:<12}{method + mark:<28}{row['seconds']:>9.3f}"
                        f"{row['V_error']:>11.1e}{row['policy_loss']:>11.1e}",
                        flush=True,
                    )
            assert winners["ours"], f"ours missed the accuracy on {label}"
            for peer, values in ratios.items():
                if winners.get(peer):
                    ratio = winners[peer][1] / winners["ours"][1]
                    entry[f"vs_{peer}"] = ratio
                    values.append(ratio)
            if name == "grid300":
                grid300.append(winners["ours"][1])
    print("* the fastest of its library; 'loss' is how much its policy falls short of the best")
    result = {
        "vs_quantecon": geometric_mean(ratios["quantecon"]),
        "vs_mdptoolbox": geometric_mean(ratios["mdptoolbox"]),
        "grid300_seconds": statistics.median(grid300),
        "gamma": GAMMA,
        "epsilon": EPSILON,
        "seeds": arguments.seeds,
        "failures": failures,
        "mdps": details,
    }
    for peer in ratios:
        if result[f"vs_{peer}"] is not None:
            print(f"vs_{peer}: {result[f'vs_{peer}']:.2f} (theirs / ours, above 1: ours is faster)")
    print(f"grid300_seconds: {result['grid300_seconds']:.2f}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
