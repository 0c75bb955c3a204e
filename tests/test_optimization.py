from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.recipe.schema import Phase
from pipeline.train.optimization import MovingAverage, Schedule, cosine, make_optimizer


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(1))


def phase(name: str, epochs: int = 1, rate: float = 1.0, **values: float) -> Phase:
    return Phase.model_validate({
        "size": [32, 32], "epochs": epochs, "batch_size": 1, "learning_rate": rate,
        "schedule": {"name": name, **values},
    })  # fmt: skip


def scheduled(optimizer: torch.optim.Optimizer, steps: int, name: str, **values: float) -> Schedule:
    return Schedule(optimizer, [phase(name, **values)], [steps])


def rates(name: str, steps: int, **values: float) -> list[float]:
    optimizer = SGD([parameter()])
    schedule = scheduled(optimizer, steps, name, **values)
    return [step(optimizer, schedule) for _ in range(steps)]


def step(optimizer: torch.optim.Optimizer, schedule: Schedule) -> float:
    optimizer.step()
    schedule.after_step()
    return schedule.rate


def test_cosine_goes_up_in_a_line_and_down_in_half_a_wave() -> None:
    found = rates("cosine", 104, warm_up=4 / 104, end=0.1)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[54] == pytest.approx(0.55), "half of the way from 1 to 0.1"
    assert found == pytest.approx([cosine(step, 104, 4 / 104, 0.1) for step in range(104)])
    assert cosine(104, 104, 4 / 104, 0.1) == pytest.approx(0.1)


def test_one_cycle_is_torchs() -> None:
    found = rates("one-cycle", 100, warm_up=0.3)
    assert found[0] == pytest.approx(1 / 25) and max(found) == pytest.approx(1)
    assert found[-1] == pytest.approx(1 / 250_000) and found.index(max(found)) == 29


def test_one_cycle_leaves_a_momentum_of_the_recipe_alone() -> None:
    sgd, adam = SGD([parameter()], 1.0, momentum=0.9), Adam([parameter()], 1.0)
    for optimizer in (sgd, adam):
        scheduled(optimizer, 100, "one-cycle", warm_up=0.3)
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert adam.param_groups[0]["betas"][0] == 0.95


def test_plateaus_lower_the_rate() -> None:
    optimizer = SGD([parameter()])
    schedule = scheduled(optimizer, 100, "plateau", factor=0.1, patience=1, gain=0.01)
    seen = []
    for dice in (0.5, 0.6, 0.605, 0.605, 0.7):
        schedule.after_score(dice)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_each_phase_has_its_own_peak_and_schedule() -> None:
    """Nothing of a phase's rate or momentum is left in the next one."""
    optimizer = Adam([parameter()])
    phases = [
        phase("one-cycle", epochs=2, rate=0.1, warm_up=0.3),
        phase("cosine", rate=0.02, warm_up=0.0, end=0.0),
        phase("constant", rate=0.3),
    ]
    schedule = Schedule(optimizer, phases, [10, 4, 3])
    assert max(step(optimizer, schedule) for _ in range(20)) == pytest.approx(0.1)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95, abs=0.01)
    schedule.enter(1)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    found = [step(optimizer, schedule) for _ in range(4)]
    assert found == pytest.approx([0.02 * cosine(at, 4, 0, 0) for at in range(4)])
    schedule.enter(1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0), "entered already: it goes on"
    schedule.enter(2)
    assert [step(optimizer, schedule) for _ in range(3)] == [0.3] * 3


VALUES: dict[str, dict[str, float]] = {
    "one-cycle": {"warm_up": 0.3},
    "cosine": {"warm_up": 0.3, "end": 0.1},
    "plateau": {"factor": 0.5, "patience": 0, "gain": 0.0},
    "constant": {},
}


@pytest.mark.parametrize("name", VALUES)
def test_a_schedule_goes_on_from_its_state_in_any_phase(name: str) -> None:
    def make() -> tuple[Adam, Schedule]:
        optimizer = Adam([parameter()])
        phases = [phase("one-cycle", rate=0.5, warm_up=0.5), phase(name, **VALUES[name])]
        return optimizer, Schedule(optimizer, phases, [4, 10])

    def go(optimizer: Adam, schedule: Schedule) -> tuple[float, float]:
        step(optimizer, schedule)
        schedule.after_score(0.5)
        group = optimizer.param_groups[0]
        return group["lr"], group["betas"][0]

    one, other = make(), make()
    for _ in range(4):
        go(*one)
    one[1].enter(1)
    for _ in range(4):
        go(*one)
    other[1].load_state_dict(one[1].state_dict())
    other[0].load_state_dict(one[0].state_dict())
    assert other[1].rate == one[1].rate
    other[1].enter(1)
    assert [go(*one) for _ in range(4)] == [go(*other) for _ in range(4)]


def test_optimizers_are_torchs_with_the_values_given() -> None:
    made = {
        name: make_optimizer([parameter()], True, name, weight_decay=0.2, **values)
        for name, values in {
            "adamw": {}, "adam": {}, "sgd": {"momentum": 0.9, "nesterov": True},
            "rmsprop": {"momentum": 0.5, "smoothing": 0.9},
        }.items()
    }  # fmt: skip
    assert [type(o).__name__ for o in made.values()] == ["AdamW", "Adam", "SGD", "RMSprop"]
    groups = {name: o.param_groups[0] for name, o in made.items()}
    assert all(g["weight_decay"] == 0.2 for g in groups.values())
    assert groups["sgd"]["momentum"] == 0.9 and groups["sgd"]["nesterov"]
    assert groups["rmsprop"]["alpha"] == 0.9 and groups["rmsprop"]["momentum"] == 0.5
    assert [name for name, g in groups.items() if g.get("fused")] == ["adamw", "adam", "sgd"]


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
    """It begins with the first step's weights."""
    made, expected = filled(0.0), 1.0
    average = MovingAverage(made, 0.5)
    for number in range(1, 13):
        if number > 1:
            decay = min(0.5, number / (9 + number))
            expected = decay * expected + (1 - decay) * number
        fill(made, number)
        average.update()
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.full_like(value, expected), msg=name)
        else:
            assert value == 12, "BatchNorm's count is the network's own"


def test_the_average_goes_on_from_its_state() -> None:
    made = filled(0.0)
    one, other = MovingAverage(made, 0.9), MovingAverage(made, 0.9)
    for value in (1.0, 3.0):
        fill(made, value)
        one.update()
    other.load_state_dict(one.state_dict())
    fill(made, 5.0)

    def next_of(average: MovingAverage) -> dict[str, torch.Tensor]:
        average.update()
        return average.module.state_dict()

    other_state = next_of(other)
    for name, value in next_of(one).items():
        assert torch.equal(value, other_state[name])


def test_the_average_leaves_the_network_alone() -> None:
    made = filled(2.0)
    average = MovingAverage(made, 0.9)
    fill(average.module, 4.0)
    average.update()
    assert all((value == 2).all() for value in made.state_dict().values())
    assert not any(value.requires_grad for value in average.parameters())


def test_the_average_is_torchs_to_the_last_bit() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def average(averaged: Any, current: Any, _: object) -> None:
        if averaged[0].is_floating_point():
            steps = int(torchs.n_averaged)
            torch._foreach_lerp_(averaged, current, 1 - min(0.7, (1 + steps) / (10 + steps)))
        else:
            torch._foreach_copy_(averaged, current)

    ours = MovingAverage(made, 0.7)
    torchs = AveragedModel(made, multi_avg_fn=average, use_buffers=True)
    for _ in range(9):
        for value in made.parameters():
            value.data.add_(torch.randn_like(value))
        made(torch.randn(2, 3, 5, 5))
        ours.update()
        torchs.update_parameters(made)
    theirs = torchs.state_dict()
    assert list(ours.state_dict()) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


class Moves(TorchDispatchMode):
    """Notes the operations that bring a tensor to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [one for one in pytree.tree_leaves((args, made)) if isinstance(one, torch.Tensor)]
        if len({one.device for one in tensors}) > 1:
            self.found.add(str(func))
        return made


def moves(update: Callable[[], None]) -> set[str]:
    update()  # the first only copies
    with Moves() as seen:
        update()
    return seen.found


def test_nothing_travels_to_the_device_at_an_update() -> None:
    """The host would wait for it until a GPU has done all that was queued, as in torch's own."""
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to("meta")
    average = MovingAverage(made, 0.7)
    torchs = AveragedModel(made, multi_avg_fn=lambda *_: None, use_buffers=True)
    assert moves(average.update) == set()
    assert moves(lambda: torchs.update_parameters(made)) == {"aten._to_copy.default"}
