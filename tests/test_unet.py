import pytest
import torch
from torch import nn

from pipeline.networks.unet import Cnn, UNet, UNet1024

TEXTBOOK = {
    "width": 64, "depth": 4, "convolutions": 2, "batch_norm": False, "dropout": 0.5,
    "dropout_at": "before-bottleneck", "padding": "same", "up_kernel": 2, "classes": 1,
}  # fmt: skip
SMALL = TEXTBOOK | {"width": 2, "depth": 2}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def by_hand(width: int, up_kernel: int, batch_norm: bool, classes: int) -> int:
    """Four halvings and two convolutions a level, written out.

    A 3x3 convolution from a to b channels has 9 a b weights and b biases, or 2 b numbers of
    its BatchNorm; a transposed one has biases always.
    """
    extra = 2 if batch_norm else 1
    w = [width << level for level in range(5)]
    down = sum(9 * (a + b) * b + 2 * extra * b for a, b in zip([3, *w], w, strict=False))
    up = sum(up_kernel**2 * 2 * b * b + b for b in w[:-1])  # from 2 b to b channels
    merged = sum(9 * (2 * b + b) * b + 2 * extra * b for b in w[:-1])
    return down + up + merged + (width + 1) * classes


def test_the_keras_networks_count_is_the_one_its_author_prints() -> None:
    """`summary()` in the Posit article on Carvana: 31,031,745 parameters."""
    assert parameters(UNet(**TEXTBOOK)) == 31_031_745 == by_hand(64, 2, False, 1)


def test_the_pets_networks_count_follows_from_its_description() -> None:
    """The course network it goes back to prints 8,640,471: it has 23 classes, and another 3x3
    convolution from 32 to 32 channels before the last."""
    network = UNet(**TEXTBOOK | {"width": 32, "up_kernel": 3, "classes": 3})
    assert parameters(network) == 8_630_563 == by_hand(32, 3, False, 3)
    assert by_hand(32, 3, False, 23) + 9 * 32 * 32 + 32 == 8_640_471


def test_the_brain_networks_count_is_the_published_ones() -> None:
    """mateuszbuda/brain-segmentation-pytorch's network has 7,763,041 parameters."""
    network = UNet(**TEXTBOOK | {"width": 32, "batch_norm": True})
    assert parameters(network) == 7_763_041 == by_hand(32, 2, True, 1)


def test_the_unpadded_networks_count_follows_from_its_description() -> None:
    network = UNet(**TEXTBOOK | {"batch_norm": True, "padding": "valid"})
    assert parameters(network) == 31_037_633 == by_hand(64, 2, True, 1)


def test_unet1024s_count_is_the_published_ones() -> None:
    """35.37 million, counted in EKami's code."""
    assert parameters(UNet1024(classes=1)) == 35_371_873


def test_the_flat_networks_count_follows_from_its_description() -> None:
    convolutions = sum(9 * a * b + b for a, b in [(3, 64), (64, 128), (128, 256)])
    assert parameters(Cnn(widths=(64, 128, 256), classes=1)) == 371_073 == convolutions + 257


def test_the_paper_s_sizes() -> None:
    """388 pixels come out of 572, and 92 are mirrored at each edge to get them."""
    network = UNet(**TEXTBOOK | {"width": 1, "padding": "valid"})
    assert 388 + 2 * network.margin == 572
    assert network.smallest == 100 and (388 - 100) % network.step == 0
    seen: list[int] = []
    network.down[0].register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].shape[2]))
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 388, 100)).shape == (1, 1, 388, 100)
    assert seen == [572]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("convolutions", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_what_comes_out_is_as_large_as_what_went_in(
    depth: int, convolutions: int, padding: str
) -> None:
    arguments = {"depth": depth, "convolutions": convolutions, "padding": padding}
    network = UNet(**SMALL | arguments | {"classes": 3}).eval()
    height, width = network.smallest, network.smallest + 3 * network.step
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, height, width)).shape == (2, 3, height, width)
        with pytest.raises((RuntimeError, ValueError)):
            network(torch.zeros(1, 3, height - network.step, width))


def test_an_unpadded_network_sees_the_mirrored_picture_only_at_its_edges() -> None:
    """Moving the picture by a whole number of halvings moves the result with it."""
    torch.manual_seed(0)
    network = UNet(**SMALL | {"padding": "valid"}).eval()
    size = network.smallest + 8 * network.step
    wide = torch.rand(1, 3, size, size + network.step)
    inside = slice(network.margin, -network.margin)
    with torch.inference_mode():
        left = network(wide[..., : -network.step])[..., inside, inside]
        right = network(wide[..., network.step :])[..., inside, inside]
    assert left.shape[-1] > network.step
    torch.testing.assert_close(left[..., network.step :], right[..., : -network.step])


@pytest.mark.parametrize(
    ("place", "where"), [("before-bottleneck", ["bottleneck.0"]), ("last-two-levels", None)]
)
def test_dropout_is_where_it_was_asked_for(place: str, where: list[str] | None) -> None:
    network = UNet(**SMALL | {"dropout": 0.2, "dropout_at": place})
    found = [name for name, m in network.named_modules() if isinstance(m, nn.Dropout)]
    assert found == (where or ["down.1.2", "bottleneck.2"])
    none = UNet(**SMALL | {"dropout": 0.0, "dropout_at": place})
    assert not any(isinstance(module, nn.Dropout) for module in none.modules())


@pytest.mark.parametrize("kernel", [2, 3])
def test_transposed_convolutions_double(kernel: int) -> None:
    network = UNet(**SMALL | {"up_kernel": kernel})
    with torch.inference_mode():
        assert network.up[0](torch.zeros(1, 8, 5, 7)).shape == (1, 4, 10, 14)


def test_a_kernel_of_three_lies_as_in_keras() -> None:
    """TensorFlow's SAME convolution of stride 2 pads 0 before and 1 after; this is its gradient."""
    up = UNet(**SMALL | {"up_kernel": 3}).up[0]
    x = torch.rand(1, 8, 5, 7)
    large = torch.zeros(1, 4, 10, 14, requires_grad=True)
    down = nn.functional.conv2d(nn.functional.pad(large, (0, 1, 0, 1)), up.weight, stride=2)
    (expected,) = torch.autograd.grad(down, large, x)
    with torch.inference_mode():
        found = up(x) - up.bias[:, None, None]
    torch.testing.assert_close(found, expected)


def test_unet1024_takes_any_size_from_64_on() -> None:
    network = UNet1024(classes=1).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 91)).shape == (1, 1, 64, 91)
