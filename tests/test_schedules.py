import pytest
import torch
from torch.optim import SGD, Adam

from pipeline.train import optimizers, schedules
from pipeline.train.schedules import cosine


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(1))


def rates(name: str, steps: int, **values: float) -> list[float]:
    optimizer = SGD([parameter()], 1.0)
    schedule = schedules.make(optimizer, steps, name, **values)
    found = []
    for _ in range(steps):
        optimizer.step()
        schedule.after_step()
        found.append(schedule.rate)
    return found


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
        schedules.make(optimizer, 100, "one-cycle", warm_up=0.3)
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert adam.param_groups[0]["betas"][0] == 0.95


def test_plateaus_lower_the_rate() -> None:
    optimizer = SGD([parameter()], 1.0)
    schedule = schedules.make(optimizer, 100, "plateau", factor=0.1, patience=1, gain=0.01)
    seen = []
    for dice in (0.5, 0.6, 0.605, 0.605, 0.7):
        schedule.after_epoch(dice)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1])


@pytest.mark.parametrize("name", ["one-cycle", "cosine", "plateau", "constant"])
def test_a_schedule_goes_on_from_its_state(name: str) -> None:
    values = {"warm_up": 0.3, "end": 0.1, "factor": 0.5, "patience": 0, "gain": 0.0}

    def make() -> tuple[SGD, schedules.Schedule]:
        optimizer = SGD([parameter()], 1.0)
        return optimizer, schedules.make(optimizer, 10, name, **values)

    def go(optimizer: SGD, schedule: schedules.Schedule) -> float:
        optimizer.step()
        schedule.after_step()
        schedule.after_epoch(0.5)
        return optimizer.param_groups[0]["lr"]

    one, other = make(), make()
    for _ in range(4):
        go(*one)
    other[0].load_state_dict(one[0].state_dict())
    other[1].load_state_dict(one[1].state_dict())
    assert other[1].rate == one[1].rate
    assert [go(*one) for _ in range(4)] == [go(*other) for _ in range(4)]


def test_optimizers_are_torchs_with_the_values_given() -> None:
    made = {
        name: optimizers.make([parameter()], True, name, 0.1, weight_decay=0.2, **values)
        for name, values in {
            "adamw": {}, "adam": {}, "sgd": {"momentum": 0.9, "nesterov": True},
            "rmsprop": {"momentum": 0.5, "smoothing": 0.9},
        }.items()
    }  # fmt: skip
    assert [type(o).__name__ for o in made.values()] == ["AdamW", "Adam", "SGD", "RMSprop"]
    groups = {name: o.param_groups[0] for name, o in made.items()}
    assert all(g["lr"] == 0.1 and g["weight_decay"] == 0.2 for g in groups.values())
    assert groups["sgd"]["momentum"] == 0.9 and groups["sgd"]["nesterov"]
    assert groups["rmsprop"]["alpha"] == 0.9 and groups["rmsprop"]["momentum"] == 0.5
    assert [name for name, g in groups.items() if g.get("fused")] == ["adamw", "adam", "sgd"]
