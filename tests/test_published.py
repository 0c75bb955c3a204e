"""Parts that only reproduce published systems, against small implementations of their own."""

import colorsys
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, write_tiny_pets, write_yaml
from PIL import Image
from test_augment import IMAGE, MASK, augmentation
from test_every_recipe import run, smaller
from torch import nn
from torch.nn import functional

from pipeline.augmentation import like_tensorflow
from pipeline.data.images import resize_image, soft_target
from pipeline.metrics.dice import count_levels, losses
from pipeline.networks import model, unet
from pipeline.recipe import read
from pipeline.recipe.schema import Loss, Train
from pipeline.train import loss
from pipeline.train.data import Share, Shuffle


def published(name: str):
    return read.load(ROOT / f"recipes/{name}.yaml")


# --- colors, as tf.image changes them


def saturated(pixel: np.ndarray, factor: float) -> list[float]:
    """One RGB pixel through HSV, by the formulas of TensorFlow's kernel."""
    value, low = float(pixel.max()), float(pixel.min())
    if value <= 0:
        return [value] * 3
    saturation = min(1.0, (value - low) / value * factor)
    hue = colorsys.rgb_to_hsv(*(float(one) - low for one in pixel))[0]  # a shift keeps the hue
    return list(colorsys.hsv_to_rgb(hue, saturation, value))


@pytest.mark.parametrize(
    ("added", "contrast", "saturation"),
    [(0.3, 0.5, 0.7), (-0.3, 0.7, 0.5), (-0.3, 1.6, 2.0), (0.1, 1, 1)],
)
def test_colors_change_as_in_tensorflow(added: float, contrast: float, saturation: float) -> None:
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image[0, 0], image[0, 1] = 0, 255
    pixels = image / 255 + added
    for channel in range(3):
        mean = pixels[..., channel].mean()
        pixels[..., channel] = (pixels[..., channel] - mean) * contrast + mean
    expected = np.array([[saturated(pixel, saturation) for pixel in row] for row in pixels])
    found = like_tensorflow(image, added, contrast, saturation)
    np.testing.assert_allclose(found, 255 * expected.clip(0, 1), atol=0.51)


def test_colors_are_drawn_from_the_articles_ranges() -> None:
    change = augmentation(color=1, color_like="tensorflow", lighten=0.05, contrast=(0.5, 0.7))
    seen = set()
    for seed in range(20):
        image, target = change(IMAGE, MASK, seed)
        np.testing.assert_array_equal(target, MASK)
        np.testing.assert_array_equal(image, change(IMAGE, MASK, seed)[0])
        grey = image.astype(float).mean(axis=2).std() / IMAGE.astype(float).mean(axis=2).std()
        seen.add(round(grey, 3))
    assert len(seen) > 15 and 0.4 < min(seen) < max(seen) < 0.75


def test_what_cannot_be_together_is_refused() -> None:
    with pytest.raises(ValueError, match="has neither brightness nor hue"):
        augmentation(color_like="tensorflow", hue=0.1)
    train = published("oxford-pets").train.model_dump()
    with pytest.raises(ValueError, match="relu needs several classes"):
        Train(**train | {"classes": 1})
    with pytest.raises(ValueError, match="needs gradient.accumulate 1"):
        Train(**train | {"gradient": {"accumulate": 2, "clip": "none"}})


def test_a_black_border_is_background() -> None:
    shares = np.stack([255 - MASK, MASK, np.zeros_like(MASK)], axis=-1)
    change = augmentation(affine=1, shift=0.3, border="black")
    for seed in range(5):
        image, target = change(np.full_like(IMAGE, 200), shares, seed)
        assert (image == 0).any() and (image == 200).any()
        assert (target[(image == 0).all(axis=2), 0] == 255).all()
        assert np.abs(target.sum(axis=2, dtype=int) - 255).max() <= 1


# --- sizes


def test_nearest_is_keras_and_pillows() -> None:
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    for size in ((16, 16), (20, 31)):
        expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(resize_image(image, size, "nearest"), np.asarray(expected))
        target = soft_target(image[..., 0] // 128, size, 1, "nearest")
        np.testing.assert_array_equal(target, np.asarray(expected)[..., 0] // 128 * 255)


def test_a_linear_target_is_torchs_bilinear_one() -> None:
    mask = (np.random.default_rng(2).random((40, 60)) > 0.5).astype(np.uint8)
    expected = functional.interpolate(
        torch.from_numpy(mask * 255.0)[None, None], (13, 16), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(soft_target(mask, (13, 16), 1, "linear"), expected[0, 0], atol=1)


# --- targets and losses


def test_hard_targets_are_what_most_of_a_pixel_is() -> None:
    one = torch.tensor([[[0, 127, 128, 255]]], dtype=torch.uint8)
    assert loss.shares(one, hard=True).tolist() == [[[0, 0, 1, 1]]]
    several = torch.tensor([[[[255, 0, 0], [60, 100, 95]]]], dtype=torch.uint8)
    found = loss.shares(several, hard=True)
    assert found.shape == (1, 3, 1, 2) and found[0, :, 0].T.tolist() == [[1, 0, 0], [0, 1, 0]]


def weights(**changes: object) -> Loss:
    given = dict(bce=0, dice=1, smooth=(1, 1), dice_of="image", boundary=0, boundary_width=1)
    return Loss(**{**given, **changes})


def test_ekamis_soft_dice() -> None:
    """`2. * (intersection + 1) / (m1 + m2 + 1)`, the mean over images: below 0 where perfect."""
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, 5), (torch.rand(3, 4, 5) > 0.5).float()
    p, t = torch.sigmoid(logits).numpy().reshape(3, -1), target.numpy().reshape(3, -1)
    score = 2 * ((p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    ours = published("ekami-unet-572").train.loss
    terms = loss.entropy_dice(logits, target, ours)
    assert terms.dice.item() == pytest.approx(1 - score.mean(), abs=1e-6)
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert terms.total.item() == pytest.approx(bce + 1 - score.mean(), abs=1e-5)
    both_empty = loss.entropy_dice(torch.full((1, 4, 4), -50.0), torch.zeros(1, 4, 4), ours)
    assert both_empty.dice.item() == pytest.approx(-1)


def test_the_brain_articles_dice_is_of_a_batch() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(4, 6, 6), (torch.rand(4, 6, 6) > 0.8).float()
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    ours = published("brain-mri").train.loss
    terms = loss.entropy_dice(logits, target, ours)
    assert terms.dice.item() == pytest.approx(dice.item(), abs=1e-6)
    entropy = functional.binary_cross_entropy(p, target)
    assert terms.total.item() == pytest.approx((0.3 * dice + 0.7 * entropy).item(), abs=1e-6)


def test_the_dice_of_a_batch_of_classes_is_of_each_class() -> None:
    torch.manual_seed(2)
    logits, index = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    target = functional.one_hot(index, 3).permute(0, 3, 1, 2).float()
    p = logits.softmax(dim=1)
    each = [
        1 - (2 * (p[:, c] * target[:, c]).sum() + 1) / (p[:, c].sum() + target[:, c].sum() + 1)
        for c in range(3)
    ]
    terms = loss.entropy_dice(logits, target, weights(dice_of="batch"))
    assert terms.dice.item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-6)


def test_accuracy_is_the_share_of_pixels_that_are_right() -> None:
    logits = torch.tensor([[[1.0, -1.0, 0.5, -2.0]]])
    terms = loss.entropy_dice(logits, torch.tensor([[[1.0, 0.0, 0.2, 0.9]]]), weights())
    assert terms.accuracy.item() == 0.5
    logits = torch.tensor([[[[2.0, 0.0]], [[1.0, 0.0]], [[0.0, 3.0]]]])
    target = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    assert loss.entropy_dice(logits, target, weights()).accuracy.item() == 0.5


def test_the_losses_of_each_sample_are_those_of_its_probabilities() -> None:
    random = np.random.default_rng(4)
    levels = random.integers(0, 256, (20, 30), dtype=np.uint8)
    truth = random.random((20, 30)) < levels / 255
    bce, dice_loss = losses(count_levels(levels, truth)[None])
    p = torch.from_numpy((levels + 0.5) / 256)
    t = torch.from_numpy(truth.astype(float))
    assert bce[0] == pytest.approx(functional.binary_cross_entropy(p, t).item())
    expected = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert dice_loss[0] == pytest.approx(expected.item())


# --- networks


def ekami(state: dict[str, torch.Tensor], pictures: torch.Tensor) -> torch.Tensor:
    """EKami's network from its description, functions alone, unpadded, of 2 levels."""

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        x = functional.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
        mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        return functional.batch_norm(
            x, mean, variance, state[f"{name}.1.weight"], state[f"{name}.1.bias"]
        ).relu()

    x, kept = pictures, []
    for level in range(2):
        for number in range(2):
            x = block(x, f"down.{level}.{number}")
        kept.append(x)
        x = functional.max_pool2d(x, 2)
    for number in range(2):
        x = block(x, f"bottleneck.{number}")
    for level in range(2):
        size = (2 * x.shape[2], 2 * x.shape[3])
        x = functional.interpolate(x, size, mode="bilinear", align_corners=True)
        x = block(x, f"up.{level}.1.0")
        skip = kept.pop()
        c = (skip.shape[2] - x.shape[2]) // 2
        x = block(torch.cat([functional.pad(skip, [-c] * 4), x], dim=1), f"merge.{level}.0")
    return functional.conv2d(x, state["classify.weight"], state["classify.bias"])


def test_ekamis_network_is_the_one_described() -> None:
    """Upsample, convolve, crop and concatenate, convolve: 31,390,721 parameters."""
    of_recipe = published("ekami-unet-572").train.model.model_dump(
        exclude={"architecture", "weights"}
    )
    with torch.device("meta"):
        whole = unet.UNet(**of_recipe, classes=1)
    assert sum(p.numel() for p in whole.parameters()) == 31_390_721
    assert 388 + 2 * whole.margin == 572
    torch.manual_seed(0)
    network = unet.UNet(**of_recipe | {"width": 3, "depth": 2}, classes=1).eval()
    for buffer in network.buffers():
        buffer.copy_(buffer + 0.1)
    pictures = torch.rand(2, 3, network.smallest + 4, network.smallest + 4)
    padded = functional.pad(pictures, [network.margin] * 4, mode="reflect")
    with torch.inference_mode():
        expected = ekami(network.state_dict(), padded)
        torch.testing.assert_close(network(pictures), expected)
    assert expected.shape[2:] == pictures.shape[2:]


def test_relu_before_softmax_is_the_pets_networks() -> None:
    recipe = published("oxford-pets")
    small = recipe.train.model.model_copy(update={"width": 2})
    settings = recipe.train.model_copy(update={"model": small})
    network = model.for_training(settings, 0, "he").eval()
    pixels = torch.randint(0, 256, (1, 256, 256, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(pixels)
        sane = dataclasses.replace(
            network.description, network={**network.description.network, "activation": "none"}
        )
        other = model.build(sane, "none").eval()
        names = zip(other.state_dict(), network.state_dict().values(), strict=True)
        other.load_state_dict(dict(names))
        assert (logits == 0).any() and other(pixels).min() < 0
        torch.testing.assert_close(logits, other(pixels).clamp(min=0))


def test_files_of_networks_without_the_new_settings_are_read(tmp_path: Path) -> None:
    settings = published("posit-unet-128").train
    small = settings.model.model_copy(update={"width": 2})
    network = model.for_training(settings.model_copy(update={"model": small}), 0, "none")
    older = {
        key: value
        for key, value in network.description.network.items()
        if key not in ("bias", "up", "activation")
    }
    network.description = dataclasses.replace(network.description, network=older)
    model.save(tmp_path / "model.pt", network, network.state_dict())
    again = model.load(tmp_path / "model.pt")
    assert model.parameters(again) == model.parameters(network)


@pytest.mark.parametrize("how", ["he", "glorot"])
def test_first_weights_are_keras_ones(how: str) -> None:
    """Spreads and limits of glorot_uniform, and of he_normal, which is cut at two deviations."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(16, 64, 3), nn.ConvTranspose2d(64, 32, 2, stride=2), nn.Conv2d(32, 3, 1)
    )
    unet.initialize(network, how)
    inside = network[0].weight.detach()
    inputs, outputs = 16 * 9, 64 * 9
    if how == "he":
        assert inside.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.03)
        assert inside.abs().max() <= 2 * (2 / inputs) ** 0.5 / 0.8796
    else:
        limit = (6 / (inputs + outputs)) ** 0.5
        assert 0.99 * limit < inside.abs().max() <= limit
        assert inside.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
    up = network[1].weight.detach()
    assert up.abs().max() <= (6 / (4 * 64 + 4 * 32)) ** 0.5
    assert all((layer.bias == 0).all() for layer in network)


# --- what an epoch is


def epoch(rows: int, batch: int, processes: int = 1) -> list[list[int]]:
    each = [
        list(Shuffle(rows, batch, 1, drop_last=False, share=Share(process, processes)))
        for process in range(processes)
    ]
    assert len({tuple(map(len, batches)) for batches in each}) == 1, "all do the same work"
    return [[index for share in shares for index, _ in share] for shares in zip(*each, strict=True)]


def test_the_last_smaller_batch_is_trained_on() -> None:
    assert [len(batch) for batch in epoch(10, 4)] == [4, 4, 2]
    assert sorted(sum(epoch(10, 4), [])) == list(range(10))
    assert [len(batch) for batch in epoch(8, 4)] == [4, 4]
    assert [len(batch) for batch in epoch(11, 4, processes=2)] == [4, 4, 2]
    assert [len(batch) for batch in epoch(9, 4, processes=2)] == [4, 4]


def test_the_articles_epoch_has_128_steps() -> None:
    recipe = published("posit-unet-128")
    images = 5_088 * 4 // 5  # 4,070
    (phase,) = recipe.train.phases
    batches = Shuffle(images, phase.batch_size, 1, drop_last=recipe.train.drop_last)
    assert batches.steps == len(batches) == 128 and batches.images == images


def test_triple_is_each_image_as_it_is_left_right_and_upside_down() -> None:
    from pipeline.train.data import TrainingSet

    class One:
        rows = [type("Row", (), {"sample_id": name})() for name in "ab"]

        def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
            return IMAGE + np.uint8(position), MASK.copy()

    made = TrainingSet(One.rows, One(), augmentation(triple=True))
    for draw, turned in ((1, lambda x: x), (3, lambda x: x[:, ::-1]), (5, lambda x: x[::-1])):
        image, target, index = made[draw, 0]
        assert index == 1
        np.testing.assert_array_equal(image, turned(IMAGE + np.uint8(1)))
        np.testing.assert_array_equal(target, turned(MASK))


# --- what is kept of it


def test_all_epochs_are_kept_and_classes_apart_in_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of pets: a network an epoch, curves of accuracy, three classes in pictures."""
    monkeypatch.chdir(tmp_path)
    recipe = smaller(yaml.safe_load((ROOT / "recipes/oxford-pets.yaml").read_text()))
    recipe["split"] |= {"held_out": 0.4, "validation": "none"}
    recipe["train"]["phases"][0]["epochs"] = 2
    recipe["train"]["validation"]["patience"] = "none"
    recipe["train"]["weights"]["keep"] = "all"
    recipe["train"]["augment"]["triple"] = True
    write_yaml(tmp_path / "recipes/tiny.yaml", recipe)
    write_yaml(tmp_path / "params.yaml", {"recipes": ["tiny"], "folds": [0]})
    write_tiny_pets(tmp_path / "data/tiny/raw")
    for stage in ("split", "train", "validate"):
        run(stage)
    folder = tmp_path / "runs/tiny/fold0"
    first, last = (model.load(folder / f"epochs/epoch-00{n}.pt") for n in (1, 2))
    kept = model.load(folder / "model.pt")
    same = [torch.equal(a, b) for a, b in zip(kept.parameters(), last.parameters(), strict=True)]
    differs = [
        not torch.equal(a, b) for a, b in zip(kept.parameters(), first.parameters(), strict=True)
    ]
    assert all(same) and any(differs)
    assert not json.loads((folder / "metrics.json").read_text())["flatters"]
    header = (folder / "history.csv").read_text().splitlines()[0]
    assert {"loss", "held_out_loss", "training_accuracy", "pixel_accuracy"} <= set(
        header.split(",")
    )
    (picture,) = (tmp_path / "oof/tiny/fold0-overlays").iterdir()
    drawn = np.asarray(Image.open(picture)).astype(int)
    truth = drawn[:, drawn.shape[1] // 2 :]  # pet yellow, border blue
    red, blue = truth[..., 0], truth[..., 2]
    assert (red - blue > 60).any() and (blue - red > 20).any()
