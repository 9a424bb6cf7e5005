"""From an FP32 graph and images to its FP16 and INT8 files: calibration, islands, codes, precision search.

One calibration table serves all: FP16 islands are chosen by its ranges, INT8 codes have its scales, and
TensorRT's calibrator reads its cache form. The INT8 graph is judged on images that were not calibrated on;
where it misses its budget, the most sensitive nodes stay wider, as few as it takes, and the manifest names
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from edgewise.calibration.collect import Feeds, calibrate
from edgewise.calibration.placement import candidate_tensors
from edgewise.calibration.samples import CalibrationSet
from edgewise.calibration.table import CalibrationTable, encode_table
from edgewise.calibration.tensorrt_cache import write_tensorrt_cache
from edgewise.exporter.bundle.goldens import Picture
from edgewise.exporter.bundle.model_files import name_model_files
from edgewise.exporter.bundle.writer import place, update_bundle
from edgewise.exporter.from_torch.onnx_export import comparable_names
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.precision.agreement import Agreement, Role, Sample
from edgewise.exporter.precision.calibration_images import CalibrationRequest, choose_images, pictures_of
from edgewise.exporter.precision.typed_graphs import TypedGraph, Workbench, make_fp16, make_int8
from edgewise.exporter.targets.lowering import lower_fp32
from edgewise.runtime.command.selftest import golden_boxes
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.manifest import (
    Calibration,
    Graph,
    GraphFile,
    Manifest,
    Precision,
    PrecisionRecord,
    ProvenanceStep,
    Target,
)
from edgewise.runtime.frames.sources import decode_image
from edgewise.runtime.system.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

TABLE = "calibration/table.json"
TENSORRT_CACHE = "calibration/tensorrt.cache"
RANKING_SAMPLES = 4
"""Calibration images by which nodes are ranked when INT8 misses its budget."""

_STEPS = ("calibrate", "fp16", "int8")
"""The provenance steps that a new calibration replaces."""


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True)
class Quantised:
    """What calibration adds to a bundle: the new manifest and the files that it points to."""

    manifest: Manifest
    files: Mapping[str, bytes]


def calibrate_bundle(
    bundle: Bundle, request: CalibrationRequest, *, progress: Callable[[str], None] = _silent
) -> Bundle:
    """Add FP16 and INT8 files to a bundle, or exchange those it has; a kill leaves the old bundle valid.

    Raises:
        CalibrationError: The images are refused, or INT8 misses its budget even with every allowed node
            wider.
        BundleError: A file of the bundle is missing or changed.
    """
    import onnx

    manifest = bundle.manifest
    graph = next(iter(manifest.graphs.values()))
    if len(manifest.graphs) != 1 or graph.canonical is None:
        raise CalibrationError(
            "only a bundle of one graph with a canonical model can be calibrated", where=str(bundle.path)
        )
    canonical = onnx.load_model_from_string(bundle.read(graph.canonical))
    targets = tuple(dict.fromkeys(file.target for file in graph.files))
    goldens = [
        Picture(decode_image(bundle.read(golden.image), where=golden.image), golden_boxes(golden))
        for clip in manifest.goldens
        for golden in clip.frames
    ]
    quantised = quantise(canonical, manifest, request, goldens, targets, progress)
    names = {path: place(bundle, path, data) for path, data in quantised.files.items()}
    files = {names[path]: data for path, data in quantised.files.items()}
    progress("writing the bundle")
    return update_bundle(bundle, _renamed(quantised.manifest, names), files)


def quantise(
    canonical: onnx.ModelProto,
    manifest: Manifest,
    request: CalibrationRequest,
    goldens: Sequence[Picture],
    targets: tuple[Target, ...],
    progress: Callable[[str], None] = _silent,
) -> Quantised:
    """Make the FP16 and INT8 files of a bundle of one graph.

    Args:
        canonical: Outputs and probes, float32.
        manifest: With its FP32 record, budgets and, for `calibrate_bundle`, whatever an earlier calibration
            left.
        goldens: The pictures of the bundle's goldens; FP16 and INT8 must pass the self test on them.
        targets: For which targets to lower.

    Raises:
        CalibrationError: The images are refused, or a budget is missed.
        ExportError: A pass breaks a condition or the numbers, or a target refuses a node.
    """
    name, graph = next(iter(manifest.graphs.items()))
    progress("choosing calibration images")
    images = choose_images(request, manifest)
    samples = [Sample.of_picture(manifest, graph, one) for one in pictures_of(images.held_out)]
    samples += [Sample.of_picture(manifest, graph, one, Role.GOLDEN) for one in goldens]
    fp32 = lower_fp32(canonical, graph, PassRunner(samples[0].inputs[:1], comparable_names(graph)))
    agreement = Agreement(manifest, graph, fp32, samples, images.task)
    bench = Workbench(manifest, name, graph, fp32, targets, samples, agreement, progress)
    progress(f"calibrating on {request.count} images ({request.method.value})")
    table = calibrate(fp32, images.calibration, manifest.preprocess, method=request.method)
    feeds = islice(_feeds(images.calibration, manifest, graph), RANKING_SAMPLES)
    typed = []
    if Precision.FP16 in request.precisions:
        typed.append(make_fp16(bench, table))
    if Precision.INT8 in request.precisions:
        typed.append(make_int8(bench, table, feeds))
    return _compose(bench, table, typed)


def _feeds(images: CalibrationSet, manifest: Manifest, graph: Graph) -> Feeds:
    for name, tensor in images.tensors(manifest.preprocess):
        yield name, {graph.inputs[0].name: tensor}


def _compose(bench: Workbench, table: CalibrationTable, typed: Sequence[TypedGraph]) -> Quantised:
    manifest, graph = bench.manifest, bench.graph
    lowered = {
        (target, each.record.precision): model.SerializeToString(deterministic=True)
        for each in typed
        for target, model in each.lowered.items()
    }
    named = name_model_files(bench.name, lowered)
    steps = [step for step in manifest.provenance.steps if step.step not in _STEPS]
    steps.append(
        ProvenanceStep(
            step="calibrate",
            tool="edgewise",
            detail=f"{table.method.value} over {table.sample_count} images, {len(table.tensors)} tensors",
        )
    )
    files = {
        **named.files,
        TABLE: encode_table(table),
        TENSORRT_CACHE: write_tensorrt_cache(table, candidate_tensors(bench.fp32)),
    }
    return Quantised(
        msgspec.structs.replace(
            manifest,
            provenance=msgspec.structs.replace(
                manifest.provenance, steps=(*steps, *(step for each in typed for step in each.steps))
            ),
            graphs={
                bench.name: msgspec.structs.replace(
                    graph, files=(*(file for file in graph.files if _is_fp32(file)), *named.entries)
                )
            },
            precisions=(
                *(record for record in manifest.precisions if _is_fp32(record)),
                *(each.record for each in typed),
            ),
            calibration=Calibration(
                method=table.method,
                table=TABLE,
                tensorrt_cache=TENSORRT_CACHE,
                sample_count=table.sample_count,
                seed=table.seed,
                samples_sha256=table.samples_sha256,
                preprocess_sha256=table.preprocess_sha256,
            ),
        ),
        files,
    )


def _is_fp32(part: GraphFile | PrecisionRecord) -> bool:
    """Whether it outlives a calibration; what an earlier table made does not."""
    return part.precision is Precision.FP32


def _renamed(manifest: Manifest, names: Mapping[str, str]) -> Manifest:
    """The manifest with the names that files really got."""
    graphs = {
        name: msgspec.structs.replace(
            graph,
            files=tuple(
                msgspec.structs.replace(file, path=names.get(file.path, file.path)) for file in graph.files
            ),
        )
        for name, graph in manifest.graphs.items()
    }
    calibration = manifest.calibration
    if calibration is not None:
        cache = calibration.tensorrt_cache
        calibration = msgspec.structs.replace(
            calibration,
            table=names.get(calibration.table, calibration.table),
            tensorrt_cache=names.get(cache, cache) if cache is not None else None,
        )
    return msgspec.structs.replace(manifest, graphs=graphs, calibration=calibration)
