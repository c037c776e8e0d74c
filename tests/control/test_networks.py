"""Networks: their initial weights, their shapes, and what they share."""

import pytest
import torch
from torch import nn

from rlbook.control.networks import ActorCritic, Network, check_separate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(network):
    return [x for x in network.layers if isinstance(x, nn.Linear | nn.Conv2d)]


def test_orthogonal_weights_have_their_gains():
    network = Network((64,), 4, generator=seeded(), output_gain=0.01)
    *hidden, out = linear(network)
    assert len(hidden) == 2
    for layer in hidden:  # W Wᵀ = gain² I with gain √2
        torch.testing.assert_close(layer.weight @ layer.weight.T, 2.0 * torch.eye(64))
    torch.testing.assert_close(out.weight @ out.weight.T, 1e-4 * torch.eye(4), rtol=1e-5, atol=1e-9)
    assert all((layer.bias == 0).all() for layer in linear(network))


def test_without_orthogonal_the_weights_are_pytorchs_uniform():
    """U(-1/√n, 1/√n) with n inputs. The largest of 6,400 draws is within 1% of the bound but for
    a chance of 0.99^6400 < 10⁻²⁷; the variance 1/(3n) is within 10%: its standard error is
    1.2%, so 8 of them."""
    network = Network((100,), 2, generator=seeded(), hidden=(64,), orthogonal=False)
    for layer in linear(network)[:1]:
        assert 0.099 < layer.weight.abs().max() <= 0.1
        assert layer.weight.var().item() == pytest.approx(1 / 300, rel=0.1)
        assert 0.0 < layer.bias.abs().max() <= 0.1
    assert linear(network)[1].weight.abs().max() <= 1 / 8


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = [Network((3,), 2, generator=seeded(7), orthogonal=o) for o in (True, False)]
    pixels = ActorCritic((2, 4, 5), 3, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    two = [Network((3,), 2, generator=seeded(7), orthogonal=o) for o in (True, False)]
    two.append(ActorCritic((2, 4, 5), 3, seed=7))
    other = Network((3,), 2, generator=seeded(8))
    for a, b in zip([*one, pixels], two, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(one[0].layers[0].weight, other.layers[0].weight)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_leading_axes_are_kept(shape):
    network = ActorCritic(shape, 6, seed=0, hidden=(8,))
    x = torch.randn(2, 7, *shape, generator=seeded())
    assert network.policy(x).shape == (2, 7, 6)
    assert network.value(x).shape == (2, 7)
    torch.testing.assert_close(network.policy(x)[1, 3], network.policy(x[1, 3]))
    torch.testing.assert_close(network.value(x)[:, 2], network.value(x[:, 2]))
    assert network.policy(x[:0]).shape == (0, 7, 6)


def test_observations_of_another_shape_are_refused_even_if_the_count_fits():
    """[4, 3] holds as many numbers as [3, 4]: a reshape alone would mix the rows."""
    network = Network((4,), 2, generator=seeded())
    with pytest.raises(ValueError, match=r"\(4, 3\) must end in \(4,\)"):
        network(torch.zeros(4, 3))


def test_an_observation_of_two_axes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) has 2 axes"):
        Network((3, 3), 2, generator=seeded())


def test_a_shared_body_is_one_and_each_parameter_is_trained_once():
    shared = ActorCritic((4,), 2, seed=0, hidden=(8,), shared=True)
    apart = ActorCritic((4,), 2, seed=0, hidden=(8,))
    count = [sum(p.numel() for p in n.parameters()) for n in (shared, apart)]
    assert count == [(4 * 8 + 8) + (8 * 2 + 2) + (8 + 1), 2 * (4 * 8 + 8) + (8 * 2 + 2) + (8 + 1)]
    assert len({id(p) for p in shared.parameters()}) == len(list(shared.parameters()))

    x = torch.randn(5, 4, generator=seeded())
    assert torch.equal(shared.policy(x), apart.policy(x))
    optimiser = torch.optim.SGD(shared.parameters(), lr=1.0)  # would warn about duplicates
    before = shared.actor.layers[0].weight.detach().clone()
    shared.value(x).sum().backward()
    gradient = shared.actor.layers[0].weight.grad.clone()
    optimiser.step()
    assert gradient.abs().max() > 0
    torch.testing.assert_close(shared.critic.layers[0].weight, before - gradient)


def test_who_shares_is_told_apart():
    check_separate(ActorCritic((4,), 2, seed=0), "trpo")
    with pytest.raises(ValueError, match=r"trpo trains policy and value apart.*shared=False"):
        check_separate(ActorCritic((4,), 2, seed=0, shared=True), "trpo")
