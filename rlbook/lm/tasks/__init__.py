"""Tasks: prompts with rewards that can be checked, or with preferences that must be learnt.

from rlbook.lm.tasks import Problem, Task
from rlbook.lm.tasks.arithmetic import Arithmetic      (gridpath, replies, symbols, gsm8k)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlbook.lm.tasks.task import Problem, Task

__all__ = ["Problem", "Task"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that a package's own import stays free of torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlbook.lm.tasks import task

    return getattr(task, name)
