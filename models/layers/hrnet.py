"""HRNet (Sun et al., 2019): branches at strides 4, 8, 16, 32 that run side by side and exchange repeatedly.

Keys follow the published layout: `conv1`, `layer1`, `transition1`, `stage2.<module>.branches.<i>`,
`stage2.<module>.fuse_layers.<i>.<j>` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgewise.models.layers.resnet import BasicBlock, Bottleneck, initialise_residual

EXPANSION = 4


class HRNetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How wide and how deep the branches are."""

    widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    """Of the branches, from stride 4 on."""
    modules: tuple[int, int, int] = (1, 4, 3)
    """Exchanges with two, three and four branches."""
    blocks: int = 4
    """Residual blocks of a branch between two exchanges."""
    stem_width: int = 64
    stem_blocks: int = 4
    """Bottlenecks at stride 4 before the branches."""
    keeps_branches: bool = False
    """The last exchange gives all branches (HRNetV2), not the first one alone."""
    bilinear: bool = False
    """Coarser branches are enlarged bilinearly (HRNetV2 for faces), not by repeating."""


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, *, relu: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


def enlarge(features: Tensor, like: Tensor, *, bilinear: bool) -> Tensor:
    """Features at the size of others; the size is a constant in an exported graph."""
    size = (like.shape[-2], like.shape[-1])
    if bilinear:
        return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(features, size=size, mode="nearest")


class Transition(nn.ModuleDict):
    """n branches -> n + 1: a new one of half the resolution from the last; others as they are, or widened."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        for branch, (given, wanted) in enumerate(zip(inputs, outputs, strict=False)):
            if given != wanted:
                self[str(branch)] = _convolution(given, wanted, 3, 1)
        self.last = str(len(inputs))
        self[self.last] = nn.Sequential(_convolution(inputs[-1], outputs[-1], 3, 2))

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        kept = [self[str(i)](branch) if str(i) in self else branch for i, branch in enumerate(branches)]
        return [*kept, self[self.last](branches[-1])]


class Exchange(nn.Module):
    """Residual blocks along every branch, then into each output the sum of what all branches say."""

    def __init__(self, widths: Sequence[int], outputs: int, config: HRNetConfig) -> None:
        super().__init__()
        self.bilinear = config.bilinear
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, 1) for _ in range(config.blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(source): self._way(widths, source, target)
                    for source in range(len(widths))
                    if source != target
                }
            )
            for target in range(outputs)
        )

    @staticmethod
    def _way(widths: Sequence[int], source: int, target: int) -> nn.Sequential:
        if source > target:
            return _convolution(widths[source], widths[target], 1, 1, relu=False)
        width, steps = widths[source], target - source
        halvings = [_convolution(width, width, 3, 2) for _ in range(steps - 1)]
        return nn.Sequential(*halvings, _convolution(width, widths[target], 3, 2, relu=False))

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        refined = [along(branch) for along, branch in zip(self.branches, branches, strict=True)]
        outputs: list[Tensor] = []
        for target, ways in enumerate(self.fuse_layers):
            heard = [
                branch if source == target else ways[str(source)](branch)
                for source, branch in enumerate(refined)
            ]
            like = refined[target]
            total = heard[0] if target else like
            for source in range(1, len(heard)):
                coarser = source > target
                said = enlarge(heard[source], like, bilinear=self.bilinear) if coarser else heard[source]
                total = total + said
            outputs.append(F.relu(total))
        return outputs


class HRNet(nn.Module):
    """[N, 3, H, W] -> the branches [N, widths[i], H / 4 / 2^i, W / 4 / 2^i]; H, W are multiples of 32.

    One branch, of stride 4, unless the config keeps them all.
    """

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__()
        stem, widths = config.stem_width, config.widths
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem)
        wide = stem * EXPANSION
        self.layer1 = nn.Sequential(
            *(
                Bottleneck(wide if block else stem, stem, wide, 1, stride_on_first=False, deformable=False)
                for block in range(config.stem_blocks)
            )
        )
        self.transition1 = Transition((wide,), widths[:2])
        self.transition2 = Transition(widths[:2], widths[:3])
        self.transition3 = Transition(widths[:3], widths)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(Exchange(widths[:count], count, config) for _ in range(modules)))
            for count, modules in zip((2, 3, 4), config.modules, strict=True)
        )
        if not config.keeps_branches:
            self.stage4[-1] = Exchange(widths, 1, config)

    @property
    def stem(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return self.conv1

    def forward(self, images: Tensor) -> list[Tensor]:
        features = F.relu(self.bn1(self.conv1(images)))
        branches = [self.layer1(F.relu(self.bn2(self.conv2(features))))]
        branches = self.stage2(self.transition1(branches))
        branches = self.stage3(self.transition2(branches))
        return self.stage4(self.transition3(branches))

    def initialise(self) -> None:
        """See `initialise_residual`."""
        initialise_residual(self)


def joined(branches: Sequence[Tensor]) -> Tensor:
    """All branches at the first one's size, enlarged bilinearly, behind one another (HRNetV2)."""
    first, *coarser = branches
    return torch.cat([first, *(enlarge(branch, first, bilinear=True) for branch in coarser)], dim=1)
