"""Result records sorted by image, after a look at what would make a figure meaningless."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from edgewise.models.tasks.metric import Records
from edgewise.runtime.system.errors import DatasetError


def records_by_image(
    records: Records,
    chosen: Collection[int],
    images: Collection[int],
    categories: Collection[int],
    where: Path,
) -> dict[int, list[dict[str, Any]]]:
    """The records of each measured image.

    Args:
        records: COCO results.
        chosen: Ids of the images that are measured.
        images: Ids of the images that the ground truth lists.
        categories: Ids of the categories that it lists.
        where: The ground truth, for errors.

    Raises:
        DatasetError: No images, an image that is not listed, a result of an image that is not measured, of an
            unknown category, or with a score that is not a number.
    """
    problem = ""
    if not chosen:
        problem = "there are no images to measure on"
    elif unlisted := sorted(set(chosen) - set(images)):
        problem = f"the file does not list the images {unlisted[:5]}"
    found: dict[int, list[dict[str, Any]]] = {image: [] for image in chosen}
    for record in records:
        if record["image_id"] not in found:
            problem = f"a result is for image {record['image_id']}, which is not measured"
        elif record["category_id"] not in categories:
            problem = f"a result names category {record['category_id']}, which the file does not list"
        elif not math.isfinite(record["score"]):
            problem = f"a result for image {record['image_id']} has the score {record['score']}"
        else:
            found[record["image_id"]].append(record)
    if problem:
        raise DatasetError(
            problem, where=str(where), hint="measure results on the dataset that they were made from"
        )
    return found


def chosen_ids(listed: Iterable[int], image_ids: Iterable[int] | None) -> list[int]:
    """The images to measure, by rising id: those asked for, or all."""
    return sorted(listed if image_ids is None else set(image_ids))
