"""The CornerNet network as it is trained: hourglasses, pooling behind each, heads for corners and centres."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from edgewise.models.families.cornernet.config import CornernetConfig
from edgewise.models.families.cornernet.pooling import (
    CascadeCornerPooling,
    CentrePooling,
    CornerPooling,
    Pooling,
)
from edgewise.models.layers.directional_max import max_from, max_until
from edgewise.models.layers.residual_hourglass import Convolution, ResidualHourglasses

HEATMAP_BIAS = -2.19
"""Of the last layer at the beginning: every class has the probability 0.1."""

_CORNER_HEADS, _CENTRE_HEADS = ("heats", "tags", "regrs"), ("heats", "regrs")


class Corners(NamedTuple):
    """Of upper left or lower right corners."""

    heat: Tensor
    """float32 [N, classes, h, w], logits: how sure a corner lies in a cell."""
    tag: Tensor
    """float32 [N, 1, h, w], embedding: near that of the other corner of the same thing."""
    offset: Tensor
    """float32 [N, 2, h, w], x and y of the corner within its cell."""


class Centres(NamedTuple):
    """Of things' middles."""

    heat: Tensor
    """float32 [N, classes, h, w], logits."""
    offset: Tensor
    """float32 [N, 2, h, w], x and y of the centre within its cell."""


class Predictions(NamedTuple):
    """Of one hourglass."""

    upper_left: Corners
    lower_right: Corners
    centre: Centres | None = None

    @property
    def corners(self) -> tuple[Corners, Corners]:
        return self.upper_left, self.lower_right


class Cornernet(nn.Module):
    """float32 [N, 3, H, W] -> predictions of every hourglass, the last one's last.

    Keys: those of the hourglasses, and for each stack `{tl,br}_cnvs`, `{tl,br}_{heats,tags,regrs}`; with
    triplets `ct_cnvs`, `ct_{heats,regrs}` too.
    """

    def __init__(self, config: CornernetConfig) -> None:
        super().__init__()
        self.backbone = ResidualHourglasses(config.backbone)
        self.triplets = config.triplets
        width, pooled = config.backbone.widths[0], config.pool_channels
        pooling = CascadeCornerPooling if config.triplets else CornerPooling
        outputs = {"heats": config.class_count, "tags": 1, "regrs": 2}
        self._add(config, "tl", lambda: pooling(width, pooled, max_from), outputs)
        self._add(config, "br", lambda: pooling(width, pooled, max_until), outputs)
        if config.triplets:
            of_centres = {"heats": config.class_count, "regrs": 2}
            self._add(config, "ct", lambda: CentrePooling(width, pooled), of_centres)
        self._initialise()

    def _add(
        self, config: CornernetConfig, part: str, pooling: Callable[[], Pooling], outputs: Mapping[str, int]
    ) -> None:
        """For each stack a pooling, and a head behind it for each map of a part."""
        stacks, width = range(config.backbone.stacks), config.backbone.widths[0]
        self.add_module(f"{part}_cnvs", nn.ModuleList(pooling() for _ in stacks))
        for head, channels in outputs.items():
            heads = (_head(width, config.head_channels, channels) for _ in stacks)
            self.add_module(f"{part}_{head}", nn.ModuleList(heads))

    def forward(self, images: Tensor) -> list[Predictions]:
        maps = self.backbone(images)
        return [self.predictions(features, stack) for stack, features in enumerate(maps)]

    def predictions(self, features: Tensor, stack: int) -> Predictions:
        """What a stack's heads say of its map."""
        corners = (Corners(*self._maps(part, _CORNER_HEADS, features, stack)) for part in ("tl", "br"))
        centre = Centres(*self._maps("ct", _CENTRE_HEADS, features, stack)) if self.triplets else None
        return Predictions(*corners, centre)

    def _maps(self, part: str, heads: Sequence[str], features: Tensor, stack: int) -> Iterator[Tensor]:
        seen = getattr(self, f"{part}_cnvs")[stack](features)
        return (getattr(self, f"{part}_{head}")[stack](seen) for head in heads)

    def _initialise(self) -> None:
        self.backbone.initialise()
        for part in ("tl", "br", "ct") if self.triplets else ("tl", "br"):
            for head in getattr(self, f"{part}_heats"):
                nn.init.constant_(head[-1].bias, HEATMAP_BIAS)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Convolution(inputs, hidden, 3, norm=False), nn.Conv2d(hidden, outputs, 1))
