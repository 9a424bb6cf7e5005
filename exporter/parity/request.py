"""What to compare, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.runtime.contract.manifest import Target
from edgewise.runtime.system.processor import available_cores

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ParityRequest:
    """One parity run.

    Attributes:
        bundle: The bundle's folder.
        dataset: A folder with the task's annotations (`instances.json`, `panoptic.json`, `keypoints.json` or
            `surface.json`) and `images/`, or a COCO annotation file.
        images: The image folder, where it is not beside the annotation file.
        limit: Compare on the first so many images of the annotation file; None for all.
        output: Folder for `parity.json` and `parity.html`; None for `<bundle>.parity` beside the bundle.
        checkpoint: The checkpoint to take torch's numbers from; None for the one in the bundle. Its hash must
            be the one that the manifest's provenance names.
        module: A deploy module for bundles from outside the registry, or one for each graph by name; takes
            the checkpoint's place.
        without_torch: Leave torch and the exported file out: the canonical ONNX model becomes the reference.
        backends: Compare these targets only, and fail where one cannot run here; None takes every target of
            the bundle and lists what cannot run.
        threads: Threads of one operator; None takes a quarter of the cores, because stages run side by side.
        overlays: Images shown side by side in the HTML report.
    """

    bundle: Path
    dataset: Path
    images: Path | None = None
    limit: int | None = None
    output: Path | None = None
    checkpoint: Path | None = None
    module: nn.Module | Mapping[str, nn.Module] | None = field(default=None, repr=False)
    without_torch: bool = False
    backends: tuple[Target, ...] | None = None
    threads: int | None = None
    overlays: int = 6

    @property
    def stage_threads(self) -> int:
        return self.threads or max(1, available_cores() // 4)

    @property
    def report_folder(self) -> Path:
        bundle = self.bundle.absolute()
        return self.output or bundle.with_name(f"{bundle.name}.parity")
