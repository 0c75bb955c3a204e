import time

import pytest
import torch

from pipeline.support.errors import UserError
from pipeline.support.progress import Stopwatch
from pipeline.train.loss import Terms
from pipeline.train.meter import Losses

CPU = torch.device("cpu")


def terms(total: float, bce: float = 1.0, dice: float = 0.5) -> Terms:
    return Terms(*(torch.tensor(value) for value in (total, bce, dice)))


def test_losses_are_means_over_batches() -> None:
    losses = Losses(CPU, ["a", "b"])
    for total in (1.0, 2.0, 6.0):
        assert losses.add(terms(total), torch.tensor([0])), "on a CPU every batch is looked at"
        assert losses.look() == total
    assert losses.means().tolist() == [3.0, 1.0, 0.5]
    losses.clear()
    losses.add(terms(7.0), torch.tensor([0]))
    assert losses.means()[0] == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_batch_that_is_not_finite_is_named(value: float) -> None:
    losses = Losses(CPU, ["a", "b", "c", "d"])
    losses._window = 20  # as on a GPU: looked at long after
    assert not losses.add(terms(1.0), torch.tensor([0, 1]))
    losses.add(terms(value, bce=value), torch.tensor([3, 2]))
    losses.add(terms(float("nan")), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=rf"loss is {value} \(BCE {value}, Dice 0.5\) on d, c, "):
        losses.look()


def test_losses_go_on_from_their_state() -> None:
    one, other = Losses(CPU, ["a"]), Losses(CPU, ["a"])
    one.add(terms(3.0), torch.tensor([0]))
    other.load_state_dict(one.state_dict())
    other.add(terms(5.0), torch.tensor([0]))
    assert other.means()[0] == 4


def test_what_is_not_a_step_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 6, 8, 14, 16, 16, 20, 20, 22, 22])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock = Stopwatch(CPU)
    for _ in range(4):
        clock.mark()
    clock.stop()
    assert (clock.seconds, clock.waiting) == (16, 0.75)
    clock.restart()
    clock.mark()
    clock.mark()
    clock.stop()
    assert (clock.seconds, clock.waiting) == (2, 0)
