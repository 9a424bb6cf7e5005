"""Mask AP of results and of training definitions, through the same functions that run on the device."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from edgewise.models.checkpoint import LoadedModel, load_model
from edgewise.models.datasets import CocoInstances
from edgewise.runtime.errors import DatasetError, EdgewiseError
from edgewise.runtime.manifest import Manifest, Provenance
from edgewise.runtime.postprocess import postprocess
from edgewise.runtime.views import views_of

Network = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]
"""uint8 [1, h, w, 3] -> the graph's outputs by name."""


@dataclass(frozen=True)
class MaskAp:
    """COCO's mask average precision, 0..1; NaN where there is no ground truth to measure on.

    Attributes:
        ap: Mean over IoU thresholds .50:.05:.95, classes and recalls, 100 detections an image.
        ap50: At IoU .50.
        ap75: At IoU .75.
        small: `ap` for objects under 32^2 pixels.
        medium: `ap` for objects from 32^2 to 96^2 pixels.
        large: `ap` for larger objects.
        images: How many images were measured, those without objects or results included.
        classes: `ap` by class name.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    images: int
    classes: dict[str, float] = field(default_factory=dict)


def mask_ap(
    ground_truth: Path, results: Sequence[dict[str, Any]], *, image_ids: Iterable[int] | None = None
) -> MaskAp:
    """Measure COCO results against a COCO annotation file.

    Args:
        ground_truth: Annotation file with instance masks.
        results: Records with image_id, category_id, score and a compressed RLE `segmentation`; may be empty.
        image_ids: Measure on these images only; by default on all of the file.

    Raises:
        DatasetError: No such file, a result for an image that is not measured, an unknown category, a score
            that is not a number, or no images.
    """
    if not ground_truth.is_file():
        raise DatasetError(
            "no such annotation file",
            where=str(ground_truth),
            hint="give the COCO json of the evaluation set",
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth))
    chosen = sorted(truth.getImgIds() if image_ids is None else set(image_ids))
    _check_results(results, set(chosen), set(truth.getImgIds()), set(truth.getCatIds()), ground_truth)
    for annotation in truth.dataset["annotations"]:
        annotation.setdefault("iscrowd", 0)
    with contextlib.redirect_stdout(io.StringIO()):
        # The evaluator adds keys to the records it is given.
        found = truth.loadRes([dict(result) for result in results]) if results else _no_results(truth)
        evaluator = COCOeval_faster(truth, found, "segm")
        evaluator.params.imgIds = chosen
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = {category["id"]: category["name"] for category in truth.loadCats(truth.getCatIds())}
    precision = evaluator.eval["precision"]  # [IoU, recall, class, area range, detection limit], -1 = none
    stats = [float(value) if value > -1 else math.nan for value in evaluator.stats[:6]]
    return MaskAp(
        *stats,
        images=len(chosen),
        classes={
            names[category]: _mean(precision[:, :, index, 0, -1])
            for index, category in enumerate(evaluator.params.catIds)
        },
    )


def evaluate_module(
    loaded: LoadedModel, dataset: CocoInstances, *, limit: int | None = None, progress: bool = False
) -> MaskAp:
    """Mask AP of a training definition in FP32 torch, with the runtime's pre- and postprocessing.

    Args:
        loaded: The model.
        dataset: Images and ground truth; its categories must be the model's.
        limit: Measure on the first so many images only.
        progress: Whether to show a progress bar on the terminal.

    Raises:
        DatasetError: Other categories than the model's, or an image that cannot be read.
    """
    known = {label.id: label.name for label in loaded.meta.labels}
    if {label.id: label.name for label in dataset.labels} != known:
        raise DatasetError(
            "the dataset's categories are not the model's",
            where=str(dataset.json),
            hint=f"the model knows {', '.join(known.values())}",
        )
    manifest = loaded.entry.manifest(
        loaded.meta.labels, Provenance(definition=f"registry:{loaded.entry.name}")
    )
    names = [spec.name for graph in (manifest.graphs["main"],) for spec in (*graph.outputs, *graph.probes)]
    deployed = loaded.entry.deploy(loaded.module).eval()
    device = next(loaded.module.parameters()).device

    def network(tensor: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            outputs = deployed(torch.from_numpy(tensor).to(device))
        return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}

    indices = range(len(dataset) if limit is None else min(limit, len(dataset)))
    results = detect(network, manifest, dataset, indices, progress=progress)
    return mask_ap(dataset.json, results, image_ids=[dataset.images[index].id for index in indices])


def detect(
    network: Network,
    manifest: Manifest,
    dataset: CocoInstances,
    indices: Iterable[int],
    *,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """COCO results of any network that follows a manifest, on some images of a dataset."""
    results: list[dict[str, Any]] = []
    for index in _shown(list(indices), progress):
        views = views_of(manifest, dataset.frame(index))
        instances = postprocess(manifest, views, [network(look.tensor) for look in views.looks])
        results += instances.to_coco(dataset.images[index].id)
    return results


def _check_results(
    results: Sequence[dict[str, Any]], chosen: set[int], images: set[int], categories: set[int], where: Path
) -> None:
    problem = ""
    if not chosen:
        problem = "there are no images to measure on"
    elif not chosen <= images:
        problem = f"the file does not list the images {sorted(chosen - images)[:5]}"
    for result in results:
        if result["image_id"] not in chosen:
            problem = f"a result is for image {result['image_id']}, which is not measured"
        elif result["category_id"] not in categories:
            problem = f"a result names category {result['category_id']}, which the file does not list"
        elif not math.isfinite(result["score"]):
            problem = f"a result for image {result['image_id']} has the score {result['score']}"
    if problem:
        raise DatasetError(
            problem, where=str(where), hint="measure results on the dataset that they were made from"
        )


def _no_results(truth: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(precision: NDArray[np.float64]) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan


def _shown(indices: list[int], shown: bool) -> Iterable[int]:
    if not shown:
        return indices
    from rich.console import Console
    from rich.progress import track

    return track(indices, description="evaluating", console=Console(file=sys.stderr))


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m edgewise.models.evaluation CHECKPOINT DATASET`: print the mask AP."""
    parser = argparse.ArgumentParser(prog="python -m edgewise.models.evaluation", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .safetensors of `edgewise train`")
    parser.add_argument("dataset", type=Path, help="COCO json, or a folder with instances.json and images/")
    parser.add_argument("--limit", type=int, help="measure on the first so many images")
    chosen = parser.parse_args(arguments)
    try:
        dataset = CocoInstances.open(chosen.dataset)
        result = evaluate_module(load_model(chosen.checkpoint), dataset, limit=chosen.limit, progress=True)
    except EdgewiseError as error:
        sys.exit(str(error))
    print(
        f"mask AP {result.ap:.4f}  AP50 {result.ap50:.4f}  AP75 {result.ap75:.4f}  ({result.images} images)"
    )
    print(f"small {result.small:.4f}  medium {result.medium:.4f}  large {result.large:.4f}")
    print("  ".join(f"{name} {value:.3f}" for name, value in result.classes.items()))


if __name__ == "__main__":
    main()
