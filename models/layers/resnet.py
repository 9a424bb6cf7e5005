"""ResNet (He et al., 2016) with basic blocks (18 and 34 layers) or bottleneck blocks, those with their stride
on the 3x3 convolution (the "v1.5" form) or on the first 1x1 (the paper's and Caffe's form).

Keys follow the published YOLACT layout: `conv1`, `bn1`, `layers.{stage}.{block}.conv1` and so on.
"""

from __future__ import annotations

import msgspec
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.deform_conv import ModulatedDeformConv

RESIDUAL_GAIN = 0.25
"""Initial scale of a residual branch. With 1 the activations of an untrained network in eval mode double in
variance with every block and leave FP16's range in ResNet-101; 0 would leave branches without a range."""


class ResNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="resnet", kw_only=True):
    """Blocks and inner width of each of the four stages; a stage gives width * expansion channels."""

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    expansion: int = 4
    stem_width: int = 64
    basic: bool = False
    """Basic blocks: two 3x3 convolutions, of width * expansion channels."""
    stride_on_first: bool = False
    """Downsample in a stage's first 1x1 convolution (the Caffe weights) instead of its 3x3."""
    deformable_every: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Of each stage every so many blocks, the first among them, have a modulated deformable 3x3; 0: none."""

    def __post_init__(self) -> None:
        if self.basic and (self.stride_on_first or any(self.deformable_every)):
            raise ValueError("basic blocks have no first 1x1 convolution and no deformable one")

    @property
    def stage_channels(self) -> tuple[int, ...]:
        return tuple(width * self.expansion for width in self.widths)

    @property
    def stage_strides(self) -> tuple[int, ...]:
        return (4, 8, 16, 32)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, each with batch normalisation; ReLU after the sum."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, stride_on_first: bool, deformable: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_on_first else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if deformable:
            self.conv2: nn.Conv2d = ModulatedDeformConv(width, width, second)
        else:
            self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        out = F.relu(self.bn1(self.conv1(features)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + shortcut)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch normalisation; ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        out = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """What brings a shortcut to the form of the branch beside it; None where it has that."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def initialise_residual(network: nn.Module) -> None:
    """He initialisation of all convolutions; residual branches start at `RESIDUAL_GAIN`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, RESIDUAL_GAIN)
        elif isinstance(module, BasicBlock):
            nn.init.constant_(module.bn2.weight, RESIDUAL_GAIN)


class ResNet(nn.Module):
    """[N,3,H,W] -> the four stages, [N, stage_channels[i], ceil(H/s), ceil(W/s)], s = 4, 8, 16, 32."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.stem_width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem_width)
        self.layers = nn.ModuleList()
        inputs = config.stem_width
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            outputs = width * config.expansion
            every = config.deformable_every[stage]
            blocks: list[nn.Module] = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                deformable = every > 0 and number % every == 0
                blocks.append(
                    BasicBlock(inputs, outputs, stride)
                    if config.basic
                    else Bottleneck(inputs, width, outputs, stride, config.stride_on_first, deformable)
                )
                inputs = outputs
            self.layers.append(nn.Sequential(*blocks))

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.conv1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        stages = []
        for layer in self.layers:
            features = layer(features)
            stages.append(features)
        return tuple(stages)

    def freeze(self, stages: int) -> None:
        """Evaluation mode and no gradients for the stem and the leading stages; 0 freezes nothing."""
        for module in (self.conv1, self.bn1, *self.layers[:stages]) if stages else ():
            module.eval()
            module.requires_grad_(False)

    def initialise(self) -> None:
        """`initialise_residual`, and no tap moves."""
        initialise_residual(self)
        for module in self.modules():
            if isinstance(module, ModulatedDeformConv):
                module.reset_taps()
