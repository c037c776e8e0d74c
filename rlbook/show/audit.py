"""Several audits beside one another: what each loss follows, how exactly, and how noisily.

An ``Audit`` knows many gradients. Beside others it is shown against one of them: the one named,
or else the one that explains it best.
"""

import math
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlbook.audit import Audit
from rlbook.show.plots import BLUE, ORANGE, panels, styled

EXACT = 1e-8  # less than this is rounding
NOTHING = 1e-12  # a mean gradient below this share of its noise is none
WIDTH = 96  # characters of a line of the table
LOWEST_NOISE = 0.1  # where the logarithmic axis of the noise begins at the latest


def best_target(audit: Audit) -> str:
    """The gradient that leaves the least over; the first of all where there is no mean gradient."""
    if math.isinf(noise(audit)):
        return next(iter(audit.bias))
    least = min(audit.bias.values())
    return next(name for name, left in audit.bias.items() if left <= least + EXACT)


def noise(audit: Audit) -> float:
    """Standard deviation of one group's gradient over the length of the mean: ∞ if that is 0."""
    size, spread = float(audit.expected.norm()), math.sqrt(audit.variance)
    return math.inf if size <= NOTHING * max(spread, NOTHING) else spread / size


def audit_table(
    audits: Mapping[str, Audit], *, against: str | Mapping[str, str] | None = None
) -> str:
    """A table to print: a row for each loss, with cosine, scale, what is left over, and verdict.

    Args:
        audits: name of the loss → its audit.
        against: the gradient to compare with, such as "J", for all or by the loss's name.
            Default: for each loss the one that leaves the least over.

    Raises ValueError for a gradient that an audit does not know (which there are).
    """
    targets = _targets(audits, against)
    first = max(4, *map(len, audits))
    second = max(7, *map(len, targets.values()))
    head = f"{'loss':{first}}  {'against':{second}}{'cosine':>8}{'scale':>9}{'left over':>11}  "
    room = max(WIDTH - len(head), 24)
    lines = [head + "verdict"]
    for name, audit in audits.items():
        target = targets[name]
        numbers = f"{audit.cosine[target]:8.3f}{audit.scale[target]:9.3f}"
        numbers += f"{_left(audit.bias[target]):>11}  "
        if math.isinf(noise(audit)):  # what is left is rounding: its direction means nothing
            target, numbers = "–", f"{'–':>8}{'–':>9}{'–':>11}  "
        row = f"{name:{first}}  {target:{second}}{numbers}"
        words = textwrap.wrap(audit.verdict, room)
        lines += [row + words[0], *(" " * len(head) + rest for rest in words[1:])]
    return "\n".join(lines)


@styled
def plot_audits(
    audits: Mapping[str, Audit], *, against: str | Mapping[str, str] | None = None
) -> Figure:
    """Bias and noise of several losses' gradients, side by side.

    Left the share of the mean gradient that the target does not explain: 0 is exact, 1 unrelated.
    Right the standard deviation of one group's gradient, in lengths of the mean.

    Args: as ``audit_table``.
    """
    targets = _targets(audits, against)
    fig, (left, right) = panels(2, width=4.6, height=1.1 + 0.36 * len(audits))
    places = np.arange(len(audits))
    none = [math.isinf(noise(audit)) for audit in audits.values()]
    shares = [audits[name].bias[target] for name, target in targets.items()]
    left.barh(places, np.where(none, 0.0, shares), color=ORANGE)
    for place, share, nothing in zip(places, shares, none, strict=True):
        words = "no mean gradient" if nothing else _left(share)
        left.text(0.02 if nothing else share + 0.02, place, words, va="center", size=9)
    left.set_yticks(places, [f"{name}\n~ ∇{target}" for name, target in targets.items()], size=8)
    left.set(xlim=(0.0, 1.25), xlabel="left over (share of the mean gradient)", title="bias")
    _draw_noise(right, [noise(audit) for audit in audits.values()])
    for ax in (left, right):
        ax.invert_yaxis()
    return fig


def _draw_noise(ax: Axes, values: list[float]) -> None:
    """Bars on a logarithmic axis; where there is no mean gradient, words."""
    finite = [value for value in values if math.isfinite(value) and value > 0.0]
    lowest = min([LOWEST_NOISE, *(value / 2 for value in finite)])
    ax.barh(range(len(values)), [v if math.isfinite(v) else 0.0 for v in values], color=BLUE)
    for place, value in enumerate(values):
        known = math.isfinite(value)
        words = f"{value:.1f}" if known else "noise alone"
        ax.text(max(value, lowest) * 1.08 if known else lowest * 1.1, place, words, va="center",
                size=9)  # fmt: skip
    ax.set_xscale("log")
    ax.set(xlim=(lowest, 3.0 * max([1.0, *finite])), title="noise")
    ax.set(xlabel="standard deviation / length of the mean (log axis)")
    ax.set_yticks(range(len(values)), [""] * len(values))


def _targets(
    audits: Mapping[str, Audit], against: str | Mapping[str, str] | None
) -> dict[str, str]:
    if not audits:
        raise ValueError("there is no audit to show: give name → audit(loss)")
    targets = {}
    for name, audit in audits.items():
        target = against if isinstance(against, str) else (against or {}).get(name)
        target = best_target(audit) if target is None else target
        if target not in audit.bias:
            known = ", ".join(audit.bias)
            raise ValueError(f"{name!r} was not compared with {target!r}; there are: {known}")
        targets[name] = target
    return targets


def _left(share: float) -> str:
    return "0" if share <= EXACT else f"{share:.3f}"
