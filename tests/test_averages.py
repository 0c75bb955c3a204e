import torch
from torch import nn

from pipeline.train import averages
from pipeline.train.averages import Ema


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def fill(made: nn.Module, value: float) -> None:
    for tensor in made.state_dict().values():
        tensor.fill_(value)


def filled(value: float) -> nn.Sequential:
    made = network()
    fill(made, value)
    return made


def test_the_average_is_what_its_formula_says() -> None:
    made, expected = filled(0.0), 0.0
    ema = Ema(made, 0.5)
    for step in range(1, 13):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        fill(made, step)
        ema.update()
    for name, value in ema.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.full_like(value, expected), msg=name)
        else:
            assert value == 12, "BatchNorm's count is the network's own"


def test_without_a_decay_it_is_the_network_itself() -> None:
    made = network()
    ema = Ema(made, None)
    ema.update()
    assert ema.network is made and ema.state_dict() == {}
    ema.load_state_dict({})


def test_the_average_goes_on_from_its_state() -> None:
    made = filled(0.0)
    one, other = Ema(made, 0.9), Ema(made, 0.9)
    fill(made, 1.0)
    one.update()
    other.load_state_dict(one.state_dict())
    fill(made, 5.0)
    for ema in (one, other):
        ema.update()
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name])


def test_the_average_leaves_the_network_alone() -> None:
    made = filled(2.0)
    ema = Ema(made, 0.9)
    fill(ema.network, 4.0)
    ema.update()
    assert all((value == 2).all() for value in made.state_dict().values())


def test_the_mean_counts_batchnorms_statistics() -> None:
    mean = averages.mean([averages.on_cpu(filled(value)) for value in (1.0, 2.0, 6.0)])
    assert (mean["1.running_mean"] == 3).all() and (mean["0.weight"] == 3).all()
    assert mean["1.num_batches_tracked"] == 1, "the first one's"
