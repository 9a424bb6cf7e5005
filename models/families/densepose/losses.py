"""The losses of DensePose (Guler et al., 2018, section 3): the detector's, and those of annotated points.

Coordinates and nodes as published: a point at share s of a region's side lies at node s * side of the
enlarged maps (not half a node before it), and is read bilinearly between its node and the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edgewise.models.families.densepose.config import DensePoseConfig
from edgewise.models.families.densepose.network import DensePose
from edgewise.models.families.densepose.surface_stage import SurfaceMaps
from edgewise.models.families.rcnn.losses import detector_losses
from edgewise.models.layers.boxes import iou
from edgewise.models.layers.two_stage.sampling import Objects, Regions
from edgewise.models.tasks.surface.targets import SurfaceTargets
from edgewise.runtime.system.errors import ModelError


def losses(
    config: DensePoseConfig, module: DensePose, images: Tensor, targets: Sequence[SurfaceTargets]
) -> dict[str, Tensor]:
    """Scalar terms; their sum is what training descends.

    Beside the detector's: `part`, cross-entropy of the fine maps at the points; `coarse`, that of the coarse
    maps at all nodes; `u`, `v`, smooth L1 on the chart of the true part, summed over the points.

    Args:
        config: Sizes, thresholds and weights.
        module: In training mode.
        images: float32 [N, 3, H, W], normalised.
        targets: One for each image, in network pixels.

    Raises:
        ModelError: A person shows a part that the model does not have.
    """
    _refuse_unknown_parts(config, targets)
    objects = [
        Objects(item.boxes, item.classes, item.boxes.new_zeros(len(item), 0, 0), item.crowd_boxes)
        for item in targets
    ]
    features = module(images)
    terms, regions = detector_losses(config, module, features, objects)
    chosen = [_trained(config, *pair) for pair in zip(regions.per_image, targets, strict=True)]
    boxes = [item.rois[part] for item, part in zip(regions.per_image, chosen, strict=True)]
    owners = [item.objects[part] for item, part in zip(regions.per_image, chosen, strict=True)]
    where = torch.cat([torch.full_like(part, index) for index, part in enumerate(chosen)])
    surface = config.surface
    if len(where):
        maps = SurfaceMaps(
            *(
                F.interpolate(
                    each, scale_factor=float(surface.upsampling), mode="bilinear", align_corners=False
                )
                for each in module.surface_head.maps(features.levels, torch.cat(boxes), where)
            )
        )
        coarse = _coarse_loss(maps.coarse, boxes, owners, targets)
        part, u, v = _point_losses(maps, boxes, owners, targets)
    else:
        # A parameter without a part in the loss still needs a gradient.
        coarse = part = u = v = 0.0 * sum(each.sum() for each in module.surface_head.parameters())
    return {
        **terms,
        "part": surface.part_weight * part,
        "coarse": surface.coarse_weight * coarse,
        "u": surface.chart_weight * u,
        "v": surface.chart_weight * v,
    }


def _refuse_unknown_parts(config: DensePoseConfig, targets: Sequence[SurfaceTargets]) -> None:
    surface = config.surface
    part = max((int(each[:, 2].max()) for item in targets for each in item.points if len(each)), default=0)
    coarse = max((int(item.masks.max()) for item in targets if len(item)), default=0)
    if part > surface.parts or (coarse >= surface.coarse and surface.coarse > 2):
        raise ModelError(
            f"people show part {part} and coarse part {coarse}; the model has {surface.parts} parts and "
            f"{surface.coarse - 1} coarse ones",
            hint="set surface.parts and surface.coarse of the model's config to what the dataset annotates",
        )


def _trained(config: DensePoseConfig, regions: Regions, target: SurfaceTargets) -> Tensor:
    """int64 [r], the regions of an image whose surface is trained: near a person who has points."""
    count = regions.foreground
    if not count:
        return regions.objects[:0]
    owners = regions.objects[:count]
    overlap = iou(regions.rois[:count], target.boxes)[torch.arange(count, device=owners.device), owners]
    has = torch.tensor([len(points) > 0 for points in target.points], device=owners.device)
    taken = torch.nonzero((overlap >= config.surface.positive_iou) & has[owners]).flatten()
    return taken[: config.surface.positives_limit]


def _coarse_loss(
    logits: Tensor, boxes: Sequence[Tensor], owners: Sequence[Tensor], targets: Sequence[SurfaceTargets]
) -> Tensor:
    """Mean cross-entropy, the true part of a node being that of the nearest cell of the person's mask."""
    side = logits.shape[-1]
    shares = torch.arange(side, device=logits.device) / side
    wanted: list[Tensor] = []
    for regions, people, target in zip(boxes, owners, targets, strict=True):
        masks, own = target.masks[people].long(), target.boxes[people]
        cells = masks.shape[-1]
        rows, columns = (
            (
                regions[:, low, None]
                + shares * (regions[:, low + 2] - regions[:, low])[:, None]
                - own[:, low, None]
            )
            / (own[:, low + 2] - own[:, low])[:, None].clamp(min=1e-6)
            * cells
            for low in (1, 0)
        )
        inside = ((rows >= 0) & (rows < cells))[:, :, None] & ((columns >= 0) & (columns < cells))[:, None]
        row, column = (each.long().clamp(0, cells - 1) for each in (rows, columns))
        which = torch.arange(len(regions), device=logits.device)[:, None, None]
        wanted.append(torch.where(inside, masks[which, row[:, :, None], column[:, None]], 0))
    labels = torch.cat(wanted)
    return F.cross_entropy(logits, labels.clamp(max=1) if logits.shape[1] == 2 else labels)


def _point_losses(
    maps: SurfaceMaps, boxes: Sequence[Tensor], owners: Sequence[Tensor], targets: Sequence[SurfaceTargets]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the points inside each region: mean cross-entropy of the part, summed smooth L1 of U and of V."""
    side = maps.fine.shape[-1]
    which: list[Tensor] = []
    points: list[Tensor] = []
    places: list[Tensor] = []
    count = 0
    for regions, people, target in zip(boxes, owners, targets, strict=True):
        for region, person in zip(regions, people.tolist(), strict=True):
            own = target.points[person]
            place = (own[:, :2] - region[:2]) / (region[2:] - region[:2]) * side
            inside = ((place >= 0) & (place < side)).all(dim=1)
            points.append(own[inside])
            places.append(place[inside])
            which.append(torch.full((int(inside.sum()),), count, device=region.device))
            count += 1
    point, place, region = torch.cat(points), torch.cat(places), torch.cat(which)
    if not len(point):
        nothing = 0.0 * (maps.fine.sum() + maps.u.sum() + maps.v.sum())
        return nothing, nothing, nothing
    low = place.floor().long().clamp(0, side - 1)
    high, share = (low + 1).clamp(max=side - 1), place - low
    part = point[:, 2].long()

    def read(nodes: Tensor, channel: Tensor | slice) -> Tensor:
        """[R, c, side, side] at the points, of one channel [p] or of all [p, c]."""
        nodes = nodes.permute(0, 2, 3, 1)
        across, down = (
            share[:, axis] if isinstance(channel, Tensor) else share[:, axis, None] for axis in (0, 1)
        )
        a, b = (nodes[region, low[:, 1], column, channel] for column in (low[:, 0], high[:, 0]))
        c, d = (nodes[region, high[:, 1], column, channel] for column in (low[:, 0], high[:, 0]))
        return (a * (1 - across) + b * across) * (1 - down) + (c * (1 - across) + d * across) * down

    u, v = (
        F.smooth_l1_loss(read(nodes, part), point[:, column], reduction="sum")
        for nodes, column in ((maps.u, 3), (maps.v, 4))
    )
    return F.cross_entropy(read(maps.fine, slice(None)), part), u, v
