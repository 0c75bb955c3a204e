import math

import pytest
import torch

from pipeline.recipe.schema import Loss
from pipeline.support.errors import UserError
from pipeline.train import loss
from pipeline.train.loss import Losses, Terms, near_boundary, soft_dice

CPU = torch.device("cpu")


def bce_dice(
    logits: torch.Tensor, target: torch.Tensor, bce: float, dice: float, boundary: float = 0
) -> Terms:
    weights = Loss(
        bce=bce, dice=dice, smooth=(1, 1), dice_of="image", boundary=boundary, boundary_width=1
    )
    return loss.entropy_dice(logits, target, weights)


def test_terms_are_what_their_formulas_say() -> None:
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 0.5]]])
    target = torch.tensor([[[0.0, 1.0], [0.25, 1.0]]])
    p = [1 / (1 + math.exp(-x)) for x in (0.0, 2.0, -1.0, 0.5)]
    t = [0.0, 1.0, 0.25, 1.0]
    bce = -sum(b * math.log(a) + (1 - b) * math.log(1 - a) for a, b in zip(p, t, strict=True)) / 4
    dice = 1 - (2 * sum(a * b for a, b in zip(p, t, strict=True)) + 1) / (sum(p) + sum(t) + 1)
    terms = bce_dice(logits, target, 2.0, 0.5)
    assert terms.bce.item() == pytest.approx(bce, abs=1e-6)
    assert terms.dice.item() == pytest.approx(dice, abs=1e-6)
    assert terms.total.item() == pytest.approx(2 * bce + 0.5 * dice, abs=1e-6)


def test_dice_is_a_mean_over_images_not_over_the_batch() -> None:
    probability = torch.zeros(2, 10, 10)
    target = torch.zeros(2, 10, 10)
    target[0, :5] = probability[0, :5] = 1  # perfect
    target[1, 0, 0] = 1  # missed altogether
    each = soft_dice(probability, target)
    assert each[0] == 1 and each[1] == 0.5
    terms = bce_dice(torch.where(probability > 0, 50.0, -50.0), target, 0.0, 1.0)
    assert terms.total.item() == pytest.approx(0.25)


def test_two_empty_masks_are_a_hit() -> None:
    assert soft_dice(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)).item() == 1


def test_dice_stays_between_0_and_1() -> None:
    assert soft_dice(torch.ones(1, 8, 8), torch.ones(1, 8, 8)).item() == 1
    assert 0 <= soft_dice(torch.ones(1, 8, 8), torch.zeros(1, 8, 8)).item() < 0.02


def test_low_precision_logits_are_raised_first() -> None:
    terms = bce_dice(
        torch.full((1, 64, 64), 9.0, dtype=torch.bfloat16), torch.ones(1, 64, 64), 1, 1
    )
    assert terms.total.dtype == torch.float32
    assert 0 < terms.bce.item() < 2e-4


def test_the_gradient_pulls_towards_the_target() -> None:
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    bce_dice(logits, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), 1.0, 1.0).total.backward()
    assert (logits.grad[0, :, 0] < 0).all() and (logits.grad[0, :, 1] > 0).all()


def test_a_boundary_is_where_both_kinds_are_near() -> None:
    target = torch.zeros(1, 8, 10)
    target[0, :, 4:] = 1
    assert near_boundary(target, 2)[0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert near_boundary(torch.ones(1, 8, 8), 3).sum() == 0


def test_pixels_near_the_boundary_count_more() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, :, 4:] = 1
    right = torch.where(target > 0, 8.0, -8.0)
    near, far = right.clone(), right.clone()
    near[0, 0, 4] = far[0, 0, 7] = -8.0  # one miss each
    plain, weighted = (bce_dice(x, target, 1, 1) for x in (near, far)), []
    for logits in (near, far):
        weighted.append(bce_dice(logits, target, 1, 1, boundary=3))
    one, other = plain
    assert one.total.item() == pytest.approx(other.total.item())
    assert weighted[0].bce > 2 * weighted[1].bce and weighted[0].dice > weighted[1].dice


def test_the_boundary_weight_keeps_the_scale() -> None:
    target = (torch.rand(2, 16, 16) > 0.5).float()
    plain = bce_dice(torch.zeros(2, 16, 16), target, 1, 0)
    assert bce_dice(torch.zeros(2, 16, 16), target, 1, 0, 5).bce.item() == pytest.approx(plain.bce)


def test_the_weighted_terms_are_what_their_formulas_say() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 9, 9), torch.zeros(2, 9, 9)
    target[0, 3:7, 2:8] = target[1, 8, 8] = 1
    near = torch.zeros_like(target)
    for n in range(2):
        for y in range(9):
            for x in range(9):
                window = target[n, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                near[n, y, x] = float(window.max() > window.min())
    assert torch.equal(near_boundary(target, 1), near)
    weight = 1 + 3 * near
    weight = weight / weight.mean(dim=(1, 2), keepdim=True)
    p = torch.sigmoid(logits)
    entropy = torch.nn.functional.binary_cross_entropy(p, target, reduction="none")
    areas = (weight * p).sum((1, 2)) + (weight * target).sum((1, 2))
    dice = (2 * (weight * p * target).sum((1, 2)) + 1) / (areas + 1)
    found = bce_dice(logits, target, 1, 1, boundary=3)
    torch.testing.assert_close(found.bce, (weight * entropy).mean())
    torch.testing.assert_close(found.dice, 1 - dice.mean())


def of_classes(logits: torch.Tensor, target: torch.Tensor, boundary: float = 0) -> Terms:
    return bce_dice(logits, target, 1.0, 1.0, boundary)


def test_the_terms_of_classes_are_what_their_formulas_say() -> None:
    logits = torch.tensor([[1.0, -0.5], [0.0, 2.0], [0.5, 0.0]]).reshape(1, 3, 1, 2)
    target = torch.tensor([[1.0, 0.2], [0.0, 0.5], [0.0, 0.3]]).reshape(1, 3, 1, 2)
    p = torch.softmax(logits, dim=1)
    entropy = -(target * p.log()).sum() / 2
    dice = [
        1 - (2 * (p[0, c] * target[0, c]).sum() + 1) / (p[0, c].sum() + target[0, c].sum() + 1)
        for c in range(3)
    ]
    terms = of_classes(logits, target)
    assert terms.bce.item() == pytest.approx(entropy.item(), abs=1e-6)
    assert terms.dice.item() == pytest.approx(float(sum(dice)) / 3, abs=1e-6)
    assert terms.total.item() == pytest.approx(terms.bce.item() + terms.dice.item(), abs=1e-6)


def test_on_hard_targets_it_is_torchs_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, index = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    target = torch.nn.functional.one_hot(index, 4).permute(0, 3, 1, 2)
    expected = torch.nn.functional.cross_entropy(logits, index)
    torch.testing.assert_close(of_classes(logits, target).bce, expected)


def test_pixels_between_classes_can_count_more() -> None:
    target = torch.zeros(1, 3, 8, 8)
    target[0, 0, :, :4] = target[0, 1, :, 4:] = 1
    near, far = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    near[0, 2, 4, 4] = far[0, 2, 4, 0] = 8  # wrong at the boundary, and away from it
    plain = [of_classes(logits, target).total.item() for logits in (near, far)]
    weighted = [of_classes(logits, target, boundary=3).total.item() for logits in (near, far)]
    assert plain[0] == pytest.approx(plain[1])
    assert weighted[0] > weighted[1] + 0.01


def test_targets_of_bytes_become_shares() -> None:
    one = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(loss.shares(one), torch.tensor([[[0.0, 0.2, 1.0]]]))
    several = torch.tensor([[[[255, 0, 0], [127, 64, 64]]]], dtype=torch.uint8)  # 1, 1, 2, 3
    found = loss.shares(several)
    assert found.shape == (1, 3, 1, 2)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 1, 2))
    assert found[0, 1, 0, 1].item() == pytest.approx(64 / 255)


def terms(total: float, bce: float = 1.0, dice: float = 0.5) -> Terms:
    return Terms(*(torch.tensor(value) for value in (total, bce, dice, 0.25)))


def test_losses_are_means_over_batches() -> None:
    losses = Losses(CPU, ["a", "b"])
    for total in (1.0, 2.0, 6.0):
        assert losses.add(terms(total), torch.tensor([0])), "on a CPU every batch is looked at"
        assert losses.look() == total
    assert losses.means().tolist() == [3.0, 1.0, 0.5, 0.25]
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
