"""What a learning loop tells after each update (standard library only)."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepReport:
    """One update of a learning loop. ``report["name"]`` reads a metric.

    Attributes:
        update: 1, 2, ...
        samples: what has been consumed so far: environment steps, or tokens.
        metrics: name → number. Each loop's docstring says what its names mean.
        returns: undiscounted returns of the episodes that ended since the last report (control).
    """

    update: int
    samples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    returns: tuple[float, ...] = ()

    def __getitem__(self, name: str) -> float:
        try:
            return self.metrics[name]
        except KeyError:
            raise KeyError(f"no metric {name!r}: there are {', '.join(self.metrics)}") from None
