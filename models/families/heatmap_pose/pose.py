"""What the families of this folder do alike: loss, preprocessing, what is exported, the manifest's draft."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.draft import draft_manifest
from edgewise.models.families.heatmap_pose.config import STRIDE, PoseConfig
from edgewise.models.families.heatmap_targets import target_heatmaps
from edgewise.models.families.tensors import float_tensor, frame_tensor
from edgewise.models.tasks.keypoints.targets import KeypointTargets
from edgewise.runtime.contract.manifest import Graph, Manifest, Provenance
from edgewise.runtime.contract.postprocessing import HeatmapKeypoints
from edgewise.runtime.contract.preprocessing import AffineCrop


def loss(
    config: PoseConfig, module: nn.Module, images: Tensor, targets: Sequence[KeypointTargets]
) -> dict[str, Tensor]:
    """The squared error averaged over crops, keypoints and cells, of normalised crops float32 [N, 3, H, W].

    A point that is not labelled, or too far beside the map, counts as without error.
    """
    wanted, weights = target_heatmaps(
        targets, config.heatmap_size, config.input_size, config.targets, config.conventions.cells
    )
    error = (weights[..., None, None] * (module(images) - wanted) ** 2).mean()
    return {"heatmaps": config.loss_weight * error}


def preprocessing(config: PoseConfig) -> AffineCrop:
    """A crop around the box, bilinear; black outside of the frame, before the mean is subtracted."""
    return AffineCrop(
        size=config.input_size,
        padding=config.padding,
        corners=config.conventions.corners,
        clip_box=config.clip_box,
    )


class PoseDeploy(nn.Module):
    """uint8 [N, H, W, 3] BGR -> heatmaps float32 [N, K, H/4, W/4]."""

    def __init__(self, config: PoseConfig, module: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(module).eval().requires_grad_(False)
        self.input = config.image_input.fold_into(self.network.stem)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.network(self.input(image)),)


def manifest(name: str, config: PoseConfig, vocabulary: Vocabulary, provenance: Provenance) -> Manifest:
    """The draft of a bundle's manifest: no files, precisions, calibration, goldens or budgets yet."""
    heatmaps = float_tensor(
        "heatmaps",
        (1, config.keypoint_count, *config.heatmap_size),
        f"about 1 where the keypoint lies, about 0 elsewhere; a cell to {STRIDE} x {STRIDE} input pixels",
    )
    what = config.conventions
    return draft_manifest(
        name,
        vocabulary,
        provenance,
        Graph(
            inputs=(frame_tensor(config.input_size, "BGR pixels of the crop around one box"),),
            outputs=(heatmaps,),
        ),
        preprocessing(config),
        HeatmapKeypoints(decoding=what.decoding, cells=what.cells, flip_shift=what.flip_shift),
    )


def raw_heads(heatmaps: Tensor) -> dict[str, Tensor]:
    """The graph's output as the training definition gives it."""
    return {"heatmaps": heatmaps}


def start_flat(output: nn.Conv2d) -> None:
    """Targets are nearly everywhere 0: a network that begins there learns peaks several times sooner."""
    nn.init.normal_(output.weight, std=1e-3)
    if output.bias is not None:
        nn.init.zeros_(output.bias)
