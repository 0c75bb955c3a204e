"""Plain networks for segmentation, from first weights: U-Nets, UNet1024 and a flat CNN.

All take normalized pictures (B, 3, H, W) and return logits (B, classes, H, W) of the same
height and width. Which heights and widths fit, each network says itself: `smallest`,
`smallest + step`, `smallest + 2 step`, ...
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """The U-Net of Ronneberger, Fischer and Brox (2015), with the choices people make in it.

    Level k has `width * 2**k` channels; level `depth` is the bottleneck.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        convolutions: int,
        batch_norm: bool,
        dropout: float,
        dropout_at: Literal["before-bottleneck", "last-two-levels"],
        padding: Literal["same", "valid"],
        up_kernel: Literal[2, 3],
        classes: int,
        bias: bool | None = None,  # these three as files have it that do not name them
        up: Literal["transposed", "bilinear"] = "transposed",
        activation: Literal["none", "relu"] = "none",
    ) -> None:
        """Make a network.

        Args:
            width: channels of the top level.
            depth: how often the picture is halved.
            convolutions: 3x3 convolutions in each level, on each side.
            batch_norm: after each 3x3 convolution.
            dropout: rate, 0 for none.
            dropout_at: before the bottleneck's convolutions, or after those of the last
                level before it and after its own.
            padding: `same` pads each convolution with zeros. `valid` pads none, as in the
                paper: the picture is mirrored at its edges beforehand by as much as is lost
                on the way (92 pixels a side in the paper's network, 388 to 572), and skips
                are cropped to the centre.
            up_kernel: side of the transposed convolutions' kernels; their stride is 2.
            classes: channels of the result.
            bias: of the 3x3 convolutions; None: where no BatchNorm follows.
            up: `transposed` convolutions, or `bilinear` as EKami has it: to twice the size, a
                3x3 convolution, the skip, and one 3x3 convolution less than elsewhere.
            activation: `relu` of the result, as one Keras network has it by mistake: what is
                negative is 0 and learns nothing more.
        """
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pad = 1 if padding == "same" else 0
        bias = not batch_norm if bias is None else bias

        def level(inputs: int, outputs: int, count: int = convolutions) -> nn.Sequential:
            channels = [inputs, *[outputs] * count]
            each = (_convolution(*c, batch_norm, pad, bias) for c in pairwise(channels))
            return nn.Sequential(*each)

        self.down = nn.ModuleList(level(*c) for c in pairwise([3, *widths[:-1]]))
        self.bottleneck = level(*widths[-2:])
        if dropout and dropout_at == "before-bottleneck":
            self.bottleneck.insert(0, nn.Dropout(dropout))
        elif dropout:
            for block in (self.down[-1], self.bottleneck):
                block.append(nn.Dropout(dropout))  # type: ignore[operator]
        rising = list(pairwise(widths[::-1]))
        if up == "transposed":
            self.up = nn.ModuleList(_Doubling(*c, up_kernel) for c in rising)
            self.merge = nn.ModuleList(level(*c) for c in rising)
        else:
            # To the corners, as torch 0.2 did it, for which EKami's code was written.
            double = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.up = nn.ModuleList(nn.Sequential(double, level(*c, 1)) for c in rising)
            self.merge = nn.ModuleList(level(*c, convolutions - 1) for c in rising)
        self.classify: nn.Module = nn.Conv2d(width, classes, 1)
        if activation == "relu":
            self.classify = nn.Sequential(self.classify, nn.ReLU())

        lost = 0 if padding == "same" else 2 * convolutions  # pixels of a side, in each level
        self.step = 2**depth
        self.margin = lost // 2 * (3 * self.step - 2)  # lost at each edge, all in all
        # The bottleneck's s pixels come out as s * step - lost * (step - 1), and mirroring the
        # margin needs more pixels than it is wide.
        lowest = -lost * (self.step - 1)
        self.smallest = lowest + (self.margin - lowest) // self.step * self.step + self.step

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of pictures (B, 3, H, W)."""
        x = pictures
        if self.margin:
            x = functional.pad(x, [self.margin] * 4, mode="reflect")  # B, 3, H + 2 m, W + 2 m
        skips = []
        for level in self.down:
            x = level(x)  # B, width * 2^k, H / 2^k, W / 2^k (less what convolutions lose)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.bottleneck(x)  # B, width * 2^depth, H / 2^depth, W / 2^depth
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)  # B, width * 2^k, H / 2^k, W / 2^k
            skip = _centre(skips.pop(), x)
            x = merge(torch.cat([skip, x], dim=1))  # twice the channels in, then as before
        logits: Tensor = self.classify(x)  # B, classes, H, W
        return logits


class UNet1024(nn.Module):
    """The narrow-topped U-Net of six levels with which CherKeng scored 0.9967 at 1024x1024.

    Two 3x3 convolutions a level on the way down, one at the bottom, three on the way up,
    all with BatchNorm and without bias; bilinear upsampling to the size of the skip, so any
    size fits whose sixth half is a pixel or more. Source: EKami/carvana-challenge,
    `src/nn/unet.py`, which credits CherKeng.
    """

    WIDTHS = (24, 64, 128, 256, 512, 768)
    step = 1
    smallest = 2 ** len(WIDTHS)

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        widths, top = self.WIDTHS, self.WIDTHS[0]
        self.down = nn.ModuleList(
            nn.Sequential(_normalized(inputs, outputs), _normalized(outputs, outputs))
            for inputs, outputs in pairwise([3, *widths])
        )
        self.centre = _normalized(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            nn.Sequential(
                _normalized(2 * inputs, outputs),
                _normalized(outputs, outputs),
                _normalized(outputs, outputs),
            )
            for inputs, outputs in pairwise([*widths[::-1], top])
        )
        self.classify = nn.Conv2d(top, classes, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of pictures (B, 3, H, W)."""
        x = pictures
        skips = []
        for level in self.down:
            x = level(x)  # B, WIDTHS[k], H / 2^k, W / 2^k
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.centre(x)  # B, 768, H / 64, W / 64
        for level in self.up:
            skip = skips.pop()
            # To the skip's H and W, and to its corners, as torch 0.2 did it.
            x = functional.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=True)
            x = level(torch.cat([x, skip], dim=1))  # B, WIDTHS[k - 1], H / 2^k, W / 2^k
        logits: Tensor = self.classify(x)  # B, classes, H, W
        return logits


class Cnn(nn.Module):
    """3x3 convolutions with ReLU at full size, then a 1x1: the baseline without pooling.

    What decides on a pixel is a window of `2 * len(widths) + 1` pixels around it, no more.
    """

    step = 1
    smallest = 1

    def __init__(self, *, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(_convolution(*c, False, 1, bias=True) for c in pairwise([3, *widths])),
            nn.Conv2d(widths[-1], classes, 1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of pictures (B, 3, H, W)."""
        logits: Tensor = self.layers(pictures)
        return logits


def initialize(network: nn.Module, how: Literal["he", "glorot"]) -> None:
    """Draw weights as Keras networks do: biases start at zero.

    `glorot` is Keras' default `glorot_uniform` (Glorot and Bengio, 2010) everywhere. `he` is
    `he_normal` (He et al., 2015), a normal distribution cut at two deviations, for 3x3
    convolutions, and the default for transposed ones and the last 1x1.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        inputs = module.weight[0].numel()
        if how == "he" and isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            deviation = math.sqrt(2 / inputs) / _CUT
            nn.init.trunc_normal_(module.weight, 0, deviation, -2 * deviation, 2 * deviation)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_CUT = 0.87962566103423978  # the deviation of a normal distribution cut at two deviations of 1


def _convolution(
    inputs: int, outputs: int, batch_norm: bool, padding: int, bias: bool, epsilon: float = 1e-5
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=padding, bias=bias)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs, epsilon))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _normalized(inputs: int, outputs: int) -> nn.Sequential:
    return _convolution(inputs, outputs, True, 1, bias=False, epsilon=1e-4)


class _Doubling(nn.ConvTranspose2d):
    """A transposed convolution that exactly doubles height and width.

    Of what a kernel of 3 adds, the last row and column go, as in Keras with padding `same`; torch's
    own `padding` would take the first ones.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Literal[2, 3]) -> None:
        super().__init__(inputs, outputs, kernel, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, 2 H, 2 W) of x (B, C', H, W)."""
        return super().forward(x, output_size)[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


def _centre(x: Tensor, like: Tensor) -> Tensor:
    """The middle of x (B, C, H, W), as high and wide as `like`."""
    top, left = (x.shape[2] - like.shape[2]) // 2, (x.shape[3] - like.shape[3]) // 2
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]
