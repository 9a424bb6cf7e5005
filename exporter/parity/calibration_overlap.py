"""Refuse to judge INT8 on the images that its ranges were learnt from."""

from __future__ import annotations

from collections.abc import Iterator

from edgewise.calibration.samples import CalibrationSet
from edgewise.models.data.dataset import Dataset
from edgewise.runtime.contract.manifest import Calibration, Manifest
from edgewise.runtime.system.errors import CalibrationError, DatasetError


def refuse_calibration_images(manifest: Manifest, dataset: Dataset) -> None:
    """Raise DatasetError where the bundle's calibration set was chosen from this dataset.

    The manifest keeps the hash of the chosen list and the seed that chose it, not the list: the choice is
    made again from the dataset's images, and an equal hash is the proof.
    """
    calibration = manifest.calibration
    if calibration is None:
        return
    boxes = manifest.preprocess.needs_boxes
    if any(digest == calibration.samples_sha256 for digest in _digests(calibration, dataset, boxes)):
        raise DatasetError(
            f"the {calibration.sample_count} calibration images were chosen from this dataset",
            where=str(dataset.json),
            hint="INT8 would be judged on what it was fitted to: give other images, or calibrate on others",
        )


def _digests(calibration: Calibration, dataset: Dataset, boxes: bool) -> Iterator[str]:
    """The hash of the list that each way of choosing takes from the dataset."""
    count, seed = calibration.sample_count, calibration.seed
    ways = (
        lambda: CalibrationSet.from_coco(dataset.json, dataset.folder, count=count, seed=seed, boxes=boxes),
        lambda: CalibrationSet.from_folder(dataset.folder, count=count, seed=seed),
        lambda: CalibrationSet.from_folder(dataset.json.parent, count=count, seed=seed),
    )
    for way in ways:
        try:
            yield way().samples_sha256
        except CalibrationError:  # too few or unfit images: the calibration set did not come from here
            continue
