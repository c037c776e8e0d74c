"""What GPT-2's own size made of a method: the recorded studies gpt2-ppo, -grpo, -dpo, -vineppo."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.show.plots import CYCLE, panels, styled
from rlbook.studies.recorded import Run


def describe_gpt2_run(run: Run) -> str:
    """Five lines about a run of ``rlbook.studies.at_gpt2_size``: where, how large, how far.

    Book: 17_ppo_gpt2 to 20_vineppo.
    """
    method, facts = _method(run), _first(run, "facts")
    start, memory = _first(run, "start"), _first(run, "gigabytes")
    curve = {name: run.measures[name][method][0] for name in ("accuracy", "update", "seconds")}
    origin = "its own weights" if start["own weights"] else "random weights"
    return "\n".join(
        [
            f"{method} on {run.provenance['device']}, {run.provenance['date']}",
            f"model   {facts['n_layer']:.0f} blocks, {facts['n_embd']:.0f} wide, "
            f"{facts['weights'] / 1e6:.1f} million weights, from {origin}",
            f"start   clean chains {start['pretrained, greedy']:.2f} after {start['steps']:.0f} "
            f"steps; then the imitator {start['imitator, sampled']:.2f} sampled, "
            f"{start['imitator, greedy']:.2f} greedy",
            f"end     {curve['accuracy'][-1]:.2f} (from {curve['accuracy'][0]:.2f}) after "
            f"{curve['update'][-1]:.0f} updates in {curve['seconds'][-1]:.0f} s, "
            f"{run.measures['kl'][method][0]:.1f} nats per response from the start",
            "memory  "
            + (f"{memory['measured']:.2f} GB at most, " if "measured" in memory else "")
            + f"{memory['estimated']:.2f} GB estimated",
        ]
    )


@styled
def plot_gpt2_runs(runs: Mapping[str, Run], *, ax: Axes | None = None) -> Figure:
    """Draw accuracy on held-out problems over the clock, a line for each recorded run.

    Args:
        runs: label → run.

    Book: 20_vineppo.
    """
    ax = panels(1, width=6.4, height=3.4)[1][0] if ax is None else ax
    for i, (label, run) in enumerate(runs.items()):
        method = _method(run)
        x, y = (run.measures[name][method][0] for name in ("seconds", "accuracy"))
        ax.plot(x, y, marker="o", markersize=3, color=CYCLE[i % 6], label=label)
    ax.set(xlabel="seconds, tests not counted", ylabel="accuracy", ylim=(0.0, 1.02))
    ax.set_xlim(left=0.0)
    ax.grid(color="#dddddd", linewidth=0.8)
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    return ax.figure


def _method(run: Run) -> str:
    return next(iter(run.measures["accuracy"]))


def _first(run: Run, measure: str) -> dict[str, float | int]:
    """A measure of the first seed, arm → number."""
    return {name: values[0] for name, values in run.measures[measure].items()}
