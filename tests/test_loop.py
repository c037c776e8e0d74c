"""The few lines that every training loop shares."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlbook.loop import (
    LoopState,
    accumulated_step,
    cosine_schedule,
    mean_metrics,
    minibatches,
    optimiser_step,
    set_learning_rate,
    warmup_stable_decay,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_minibatches_are_a_shuffled_partition():
    pieces = list(minibatches(12, 3, generator=seeded()))
    assert [len(piece) for piece in pieces] == [4, 4, 4]
    order = torch.cat(pieces)
    assert sorted(order.tolist()) == list(range(12))
    assert order.tolist() != list(range(12))
    assert torch.equal(order, torch.cat(list(minibatches(12, 3, generator=seeded()))))


@pytest.mark.parametrize("parts", [5, 0, 24])
def test_unequal_minibatches_are_refused(parts):
    with pytest.raises(ValueError, match=f"12 samples cannot be cut into {parts}"):
        list(minibatches(12, parts, generator=seeded()))


def step(loss_of, *, max_grad_norm=None, start=((3.0,), (4.0,))):
    """One step of SGD, rate 1, from two parameters; where they are then, and the norm."""
    parameters = [torch.tensor(x, requires_grad=True) for x in start]
    optimiser = torch.optim.SGD(parameters, lr=1.0)
    norm = optimiser_step(optimiser, loss_of(*parameters), max_grad_norm=max_grad_norm)
    return [p.item() for p in parameters], norm


def half_square(x, y):
    return (0.5 * (x**2 + y**2)).sum()


def test_a_step_goes_down_the_gradient():
    """The gradient of ½(x² + y²) at (3, 4) is (3, 4), of length 5."""
    assert step(half_square) == ([0.0, 0.0], 5.0)
    assert step(half_square, max_grad_norm=6.0) == ([0.0, 0.0], 5.0)


def test_a_long_gradient_is_scaled_as_a_whole():
    """To length 1: (0.6, 0.8)."""
    moved, norm = step(half_square, max_grad_norm=1.0)
    assert moved == pytest.approx([2.4, 3.2], abs=1e-5)
    assert norm == 5.0


def test_gradients_do_not_add_up_over_steps():
    x = torch.tensor([1.0], requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=0.5)
    for _ in range(2):
        optimiser_step(optimiser, (3.0 * x).sum())
    assert x.item() == pytest.approx(1.0 - 2 * 0.5 * 3.0)


def test_a_loss_or_gradient_that_is_not_finite_is_refused_before_anything_moves():
    x = torch.tensor([0.0], requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=1.0)
    with pytest.raises(ValueError, match="the loss is nan"):
        optimiser_step(optimiser, (x / x).sum())
    with pytest.raises(ValueError, match=r"the loss is 0.0, but its gradient is inf"):
        optimiser_step(optimiser, x.sqrt().sum())
    with pytest.raises(ValueError, match=r"its gradient is nan"):
        optimiser_step(optimiser, torch.where(x > 0, x.sqrt(), 0.0 * x).sum(), max_grad_norm=1.0)
    assert x.item() == 0.0


def test_every_group_gets_the_learning_rate():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 7.0}]
    optimiser = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]


def test_metrics_are_averaged_by_name():
    rows = iter([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 5.0}])
    assert mean_metrics(rows) == {"a": 2.0, "b": 5.0}


# --- a batch in pieces -----------------------------------------------------------------------


def test_losses_add_up_to_one_step():
    """½(x² + y²) in two pieces: gradient (3, 4), clipped to length 1 as a whole."""
    parameters = [torch.tensor([3.0], requires_grad=True), torch.tensor([4.0], requires_grad=True)]
    optimiser = torch.optim.SGD(parameters, lr=1.0)
    pieces = ((0.5 * p**2).sum() for p in parameters)
    total, norm = accumulated_step(optimiser, pieces, max_grad_norm=1.0)
    assert (total, norm) == (12.5, 5.0)
    assert [p.item() for p in parameters] == pytest.approx([2.4, 3.2], abs=1e-5)


def test_the_next_loss_is_computed_after_the_backward_pass_of_the_last():
    """So the memory of one piece is in use at a time."""
    x = torch.tensor([1.0], requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=1.0)
    seen = []

    def losses():
        for scale in (1.0, 2.0, 4.0):
            seen.append(None if x.grad is None else x.grad.item())
            yield (scale * x).sum()

    accumulated_step(optimiser, losses())
    assert seen == [None, 1.0, 3.0]
    assert x.item() == 1.0 - 7.0


def test_a_bad_piece_moves_nothing():
    x = torch.tensor([1.0], requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=1.0)
    with pytest.raises(ValueError, match="the loss is inf"):
        accumulated_step(optimiser, [x.sum(), (x / 0.0).sum()])
    with pytest.raises(ValueError, match="a step needs a loss"):
        accumulated_step(optimiser, [])
    assert x.item() == 1.0


# --- schedules -------------------------------------------------------------------------------


def test_cosine_by_hand():
    """Two steps up, then the cosine at 0, ¼, ½, ¾ of its way: 1, (1+√½)/2, ½, (1-√½)/2."""
    root = math.sqrt(0.5)
    expected = [0.5, 1.0, 1.0, (1 + root) / 2, 0.5, (1 - root) / 2]
    assert [cosine_schedule(t, 6, warmup=2) for t in range(6)] == pytest.approx(expected)
    assert cosine_schedule(4, 6, warmup=2, floor=0.2) == pytest.approx(0.2 + 0.8 * 0.5)
    assert cosine_schedule(6, 6, warmup=2, floor=0.2) == pytest.approx(0.2)


def test_cosine_is_torchs():
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50, eta_min=0.1)
    for step in range(50):
        ours = cosine_schedule(step, 50, floor=0.1)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(ours, abs=1e-9)
        optimiser.step()
        theirs.step()


def test_warmup_stable_decay_by_hand():
    shares = [warmup_stable_decay(t, 9, warmup=3, decay=4) for t in range(9)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4])
    assert [warmup_stable_decay(t, 3) for t in range(3)] == [1.0, 1.0, 1.0]


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))
def test_a_level_part_does_not_know_how_long_the_run_is(steps, warmup, longer):
    """Until the decay begins, a longer run has the same rates."""
    warmup = min(warmup, steps)
    decay = (steps - warmup) // 2
    for step in range(steps - decay):
        assert warmup_stable_decay(step, steps, warmup=warmup, decay=decay) == (
            warmup_stable_decay(step, steps + longer, warmup=warmup, decay=decay)
        )


@pytest.mark.parametrize("schedule", [cosine_schedule, warmup_stable_decay])
def test_lines_longer_than_the_run_are_refused(schedule):
    with pytest.raises(ValueError, match="step=0 of steps=5 with 6 steps of warm-up and decay"):
        schedule(0, 5, warmup=6)
    with pytest.raises(ValueError, match="step=-1"):
        schedule(-1, 5)


# --- stopping and going on -------------------------------------------------------------------


def noisy_descent(x: torch.Tensor, steps: int, state: LoopState, seed: int = 0) -> list[float]:
    """A loop of Adam on (x - noise)², and where it has been."""
    state.start(torch.optim.Adam([x], lr=0.1), seeded(seed))
    path = []
    while state.step < steps:
        noise = torch.randn((), generator=state.generator)
        optimiser_step(state.optimiser, (x - noise).square().sum())
        state.step += 1
        state.samples += 10
        state.extra["average"] = 0.9 * state.extra.get("average", 0.0) + 0.1 * x.item()
        path.append(x.item())
    return path


def test_a_state_goes_on_bit_for_bit_through_a_file(tmp_path):
    x = torch.tensor([1.0], requires_grad=True)
    whole = LoopState()
    path = noisy_descent(x, 8, whole)

    y = torch.tensor([1.0], requires_grad=True)
    state = LoopState()
    first = noisy_descent(y, 5, state)
    state.save(tmp_path / "state.pt")
    z = y.detach().clone().requires_grad_()
    loaded = LoopState.load(tmp_path / "state.pt")
    assert (loaded.step, loaded.samples) == (5, 50)
    rest = noisy_descent(z, 8, loaded, seed=99)  # the seed of a loaded state counts
    assert [*first, *rest] == path
    assert loaded.extra == whole.extra and loaded.samples == 80
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_without_the_optimiser_or_the_generator_it_would_go_elsewhere(tmp_path):
    """So the equality above is one of both."""
    x = torch.tensor([1.0], requires_grad=True)
    path = noisy_descent(x, 8, LoopState())
    for lost in ("optimiser", "generator"):
        y = torch.tensor([1.0], requires_grad=True)
        state, other = LoopState(), LoopState()
        noisy_descent(y, 5, state)
        other.start(torch.optim.Adam([y], lr=0.1), seeded())
        loaded = LoopState()
        loaded.load_state_dict(state.state_dict() | {lost: other.state_dict()[lost]})
        assert noisy_descent(y, 8, loaded) != path[5:]


def test_a_state_that_has_not_run_has_nothing_to_keep(tmp_path):
    with pytest.raises(ValueError, match="has not run"):
        LoopState().state_dict()
    with pytest.raises(ValueError, match="not the state of a loop: extra, generator, samples"):
        LoopState().load_state_dict({"step": 1, "optimiser": {}})


class Harmful:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_state_file_is_not_executed(tmp_path):
    torch.save({"step": Harmful()}, tmp_path / "state.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        LoopState.load(tmp_path / "state.pt")
