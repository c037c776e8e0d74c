"""Text in the notebook: the source of a function, shown where the chapter uses it."""

import inspect
from collections.abc import Callable


def show_source(function: Callable) -> None:
    """Show the source code of a function or class with colours (plain text elsewhere).

    Cells that call this are tagged ``nbval-ignore-output``: any edit of the source changes them.
    """
    from IPython.display import Code, display

    display(Code(inspect.getsource(function), language="python"))
