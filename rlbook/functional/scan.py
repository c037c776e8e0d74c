"""One linear recurrence, read from right to left: behind every return and advantage of the book."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def reverse_linear_scan(
    decay: Float[Tensor, "B T"],
    increment: Float[Tensor, "B T"],
    *,
    ended: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """Solve a linear recurrence from the last column to the first.

        x_t = b_t + a_t x_{t+1},    x_T = 0;    x_t = b_t where ended    (a = decay, b = increment)

    The plain way is a loop over T columns. This one needs about log₂ T vector steps. Put one
    step into the next, and two steps are again one step of the same form:

        x_t = (b_t + a_t b_{t+1}) + (a_t a_{t+1}) x_{t+2}

    So the even columns obey a recurrence half as long: solve it (by the same rule), and each odd
    column follows from the even one after it. All in all about 2T additions, and nothing is
    divided by a power of the decay, so nothing can overflow that the loop would not.

    What stands after an end is never multiplied, it is replaced by 0 before the operation
    (0·NaN would be NaN): NaN and inf reach neither the values nor the gradients before the end.

    Book: 08_actor_critic. Source: Blelloch (1990), "Prefix sums and their applications", section
    1.4 (a recurrence as a scan).
    """
    return _solve(decay.masked_fill(ended, 0.0), increment, ended)


def _solve(a: Tensor, b: Tensor, ended: Tensor) -> Tensor:
    """The recurrence; a is 0 where ended."""
    B, T = b.shape
    if T <= 1:
        return b
    if T % 2:  # one more column of zeros changes nothing: x_T = 0 anyhow
        a, b, ended = (torch.cat([x, x.new_zeros(B, 1)], dim=1) for x in (a, b, ended))
    a_even, b_even, ended_even = (x[:, 0::2] for x in (a, b, ended))
    a_odd, b_odd, ended_odd = (x[:, 1::2] for x in (a, b, ended))

    x_even = _solve(
        a_even * a_odd.masked_fill(ended_even, 0.0),
        b_even + a_even * b_odd.masked_fill(ended_even, 0.0),
        ended_even | ended_odd,
    )
    x_after_odd = torch.cat([x_even[:, 1:], x_even.new_zeros(B, 1)], dim=1)
    x_odd = b_odd + a_odd * x_after_odd.masked_fill(ended_odd, 0.0)
    return torch.stack([x_even, x_odd], dim=2).flatten(1)[:, :T]
