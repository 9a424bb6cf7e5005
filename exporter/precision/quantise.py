"""From FP32 graphs and images to their FP16 and INT8 files: calibration, islands, codes, precision search.

One calibration table a graph serves both: FP16 islands are chosen by its ranges, and INT8 codes have its
scales. Graphs are judged on images that were not calibrated on; where one misses its budget, the most
sensitive nodes stay wider, as few as it takes, and the manifest names them. Of several graphs each is judged
with the others in FP32, and then all together. A precision that cannot keep its budget is not made, and takes
nothing with it: provenance says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from edgewise.calibration.collect import Feeds, calibrate
from edgewise.calibration.graph import load_model
from edgewise.calibration.samples import CalibrationSet
from edgewise.calibration.table import CalibrationTable, encode_table
from edgewise.exporter.bundle.goldens import Clip, Picture, clips_of
from edgewise.exporter.bundle.model_files import name_model_files
from edgewise.exporter.bundle.writer import place, update_bundle
from edgewise.exporter.from_torch.onnx_export import comparable_names
from edgewise.exporter.graph.numerics import GraphRunner, Tensors, output_roles, roles_in
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.graph.recorder import Recorder
from edgewise.exporter.precision.agreement import Agreement, Models, PreparedClip, Role
from edgewise.exporter.precision.calibration_images import (
    CalibrationRequest,
    ChosenImages,
    choose_images,
    pictures_of,
)
from edgewise.exporter.precision.typed_graphs import (
    TypedGraph,
    Workbench,
    make_fp16,
    make_int8,
    require_budget,
)
from edgewise.exporter.targets.lowering import lower_fp32, newest, stored
from edgewise.exporter.traffic.layers import compare
from edgewise.runtime.command.selftest import golden_boxes
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.check import image_input
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
from edgewise.runtime.frames.images import decode_image
from edgewise.runtime.frames.sources import Frame
from edgewise.runtime.system.errors import CalibrationError, EdgewiseError, ExportError, ResultError
from edgewise.runtime.system.publishing import writing
from edgewise.runtime.walk.walk import Preparation, Prepared, Walk

if TYPE_CHECKING:
    import onnx

RANKING_SAMPLES = 4
"""Calibration images by which nodes are ranked when INT8 misses its budget."""
COMPARED_SAMPLES = 2
"""Inputs of a graph on which its passes' numbers are compared."""

NOT_MADE = "not made: "
"""How the provenance step of a precision begins that missed its budget."""

TRAFFIC = "traffic"
"""The provenance step that says how many bytes INT8 moves beside FP16."""

_STEPS = ("calibrate", "fp16", "int8", TRAFFIC)
"""The provenance steps that a new calibration replaces."""


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True)
class Quantised:
    """What calibration adds to a bundle: the new manifest and the files that it points to.

    `missed` says why a precision that was asked for is not among them.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    missed: Mapping[Precision, EdgewiseError]


def calibrate_bundle(
    bundle: Bundle, request: CalibrationRequest, *, progress: Callable[[str], None] = _silent
) -> Bundle:
    """Add FP16 and INT8 files to a bundle, or exchange those it has; a kill leaves the old bundle valid.

    Raises:
        CalibrationError: The images are refused, nothing that was asked for keeps its budget, or the bundle
            would lose a precision that it holds.
        BundleError: A file of the bundle is missing or changed.
        EdgewiseError: Somebody else writes the bundle.
    """
    with writing(bundle.path):
        return _calibrate(Bundle.open(bundle.path), request, progress)


def _calibrate(bundle: Bundle, request: CalibrationRequest, progress: Callable[[str], None]) -> Bundle:

    manifest = bundle.manifest
    manifest = msgspec.structs.replace(manifest, budgets=request.budgets or manifest.budgets)
    progress("choosing calibration images")
    images = choose_images(request, manifest)
    goldens = [
        tuple(
            Picture(decode_image(bundle.read(frame.image), where=frame.image), golden_boxes(frame))
            for frame in golden.frames
        )
        for golden in manifest.goldens
    ]
    canonical: dict[str, onnx.ModelProto] = {}
    for name, graph in manifest.graphs.items():
        if graph.canonical is None:
            raise CalibrationError(
                f"the manifest names no canonical model of graph {name!r}", where=str(bundle.path)
            )
        canonical[name] = load_model(bundle.model(graph.canonical), where=graph.canonical)
    targets = tuple(dict.fromkeys(file.target for graph in manifest.graphs.values() for file in graph.files))
    prepared = [_prepare(manifest, clip) for clip in goldens]
    samples = _inputs(manifest, canonical, [PreparedClip(frames) for frames in prepared])
    fp32 = {
        name: lower_fp32(
            canonical[name],
            graph,
            PassRunner(samples[name][:1], comparable_names(graph), roles_in(manifest, graph)),
        )
        for name, graph in manifest.graphs.items()
    }
    quantised = quantise(fp32, manifest, request, images, prepared, targets, progress)
    held = {file.precision for graph in manifest.graphs.values() for file in graph.files}
    for precision, error in quantised.missed.items():
        if precision in held or len(quantised.missed) == len(request.precisions):
            raise error
    names = {path: place(bundle, path, data) for path, data in quantised.files.items()}
    files = {names[path]: data for path, data in quantised.files.items()}
    progress("writing the bundle")
    return update_bundle(bundle, _renamed(quantised.manifest, names), files)


def quantise(
    fp32: Models,
    manifest: Manifest,
    request: CalibrationRequest,
    images: ChosenImages,
    goldens: Sequence[Sequence[Prepared]],
    targets: tuple[Target, ...],
    progress: Callable[[str], None] = _silent,
) -> Quantised:
    """Make the FP16 and INT8 files of a bundle.

    Args:
        fp32: Every graph, with outputs only.
        manifest: With its FP32 record, budgets and, for `calibrate_bundle`, whatever an earlier calibration
            left.
        images: Which images do what.
        goldens: The preprocessed frames of the bundle's goldens; FP16 and INT8 must pass the self test on
            them.
        targets: For which targets to lower.

    Raises:
        CalibrationError: The images are refused, or an activation is NaN.
    """
    held_out = clips_of(manifest, pictures_of(images.held_out))
    clips = [PreparedClip(_prepare(manifest, clip)) for clip in held_out]
    compared = _inputs(manifest, fp32, clips)
    clips += [PreparedClip(frames, Role.GOLDEN) for frames in goldens]
    agreement = Agreement(manifest, fp32, clips, images.task)
    if agreement.unsettled:
        progress(f"{agreement.unsettled} images to judge on need more suppression rounds than the graph has")
    tables: dict[str, CalibrationTable] = {}
    typed: dict[str, list[TypedGraph]] = {}
    missed: dict[Precision, EdgewiseError] = {}
    for name in manifest.schedule.graphs:
        bench = Workbench(manifest, name, fp32[name], targets, compared[name], agreement, progress)
        of_graph = f" for graph {name}" if len(manifest.graphs) > 1 else ""
        progress(f"calibrating on {request.count} images ({request.method.value}){of_graph}")
        feeds = _feeds(images.calibration, manifest, fp32, name)
        tables[name] = calibrate(
            fp32[name], images.calibration, manifest.preprocess, method=request.method, feeds=feeds
        )
        typed[name] = []
        for precision, make in ((Precision.FP16, make_fp16), (Precision.INT8, make_int8)):
            if precision not in request.precisions or precision in missed:
                continue
            ranked_on = islice(_feeds(images.calibration, manifest, fp32, name), RANKING_SAMPLES)
            try:
                typed[name].append(make(bench, tables[name], ranked_on))
            except (CalibrationError, ExportError, ResultError) as error:
                missed[precision] = error
                progress(f"{precision.value} is not made: {error.what}")
    typed = _without(typed, missed)
    if len(typed) > 1:
        missed |= _miss_together(agreement, typed, targets)
    return _compose(manifest, tables, _without(typed, missed), missed, compared)


def _without(
    typed: Mapping[str, Sequence[TypedGraph]], missed: Collection[Precision]
) -> dict[str, list[TypedGraph]]:
    """What is left where a precision that one graph misses is made for none."""
    return {
        name: [each for each in every if each.record.precision not in missed] for name, every in typed.items()
    }


def _prepare(manifest: Manifest, clip: Clip) -> list[Prepared]:
    prepare = Preparation(manifest)
    return [
        prepare(Frame(number, f"frame {number}", picture.frame, 0.0), picture.boxes)
        for number, picture in enumerate(clip)
    ]


def _inputs(manifest: Manifest, fp32: Models, clips: Sequence[PreparedClip]) -> dict[str, list[Tensors]]:
    """The first inputs of every graph on a walk over some clips, state among them."""
    if _sees_images_only(manifest):
        (name,) = manifest.schedule.graphs
        looks = [look for clip in clips for frame in clip.frames for look in frame.looks.looks]
        return {name: [{image_input(manifest, name): look.tensor} for look in looks[:COMPARED_SAMPLES]]}
    recorders = {name: Recorder(GraphRunner(model), COMPARED_SAMPLES) for name, model in fp32.items()}
    walk = Walk(manifest, recorders)
    for clip in clips:
        if all(len(recorder.inputs) == COMPARED_SAMPLES for recorder in recorders.values()):
            break
        walk.reset()
        for frame in clip.frames:
            walk.infer(frame)
    return {name: recorder.inputs for name, recorder in recorders.items()}


def _feeds(images: CalibrationSet, manifest: Manifest, fp32: Models, name: str) -> Feeds:
    """What a graph is given for every calibration image: its network input, and on a walk the state too."""
    if _sees_images_only(manifest):
        image = image_input(manifest, name)
        for sample, tensor in images.tensors(manifest.preprocess):
            yield sample, {image: tensor}
        return
    runners = {graph: GraphRunner(model) for graph, model in fp32.items()}
    for sample in images.samples:
        (clip,) = clips_of(manifest, pictures_of([sample]))
        recorder = Recorder(runners[name], len(clip))
        walk = Walk(manifest, {**runners, name: recorder})
        for frame in _prepare(manifest, clip):
            walk.infer(frame)
        for inputs in recorder.inputs:
            yield sample.name, inputs


def _sees_images_only(manifest: Manifest) -> bool:
    """Whether there is one graph, and all that it is given is the image: no walk says more."""
    return not manifest.state and len(manifest.schedule.graphs) == 1


def _miss_together(
    agreement: Agreement, typed: Mapping[str, Sequence[TypedGraph]], targets: tuple[Target, ...]
) -> dict[Precision, EdgewiseError]:
    """Why graphs that keep their budgets one by one do not keep them together, by precision.

    Files that several targets share are judged once.
    """
    missed: dict[Precision, EdgewiseError] = {}
    for precision in dict.fromkeys(each.record.precision for every in typed.values() for each in every):
        judged: set[tuple[bytes, ...]] = set()
        for target in targets:
            models = {
                name: newest(each.lowered[target])
                for name, every in typed.items()
                for each in every
                if each.record.precision is precision
            }
            files = tuple(model.SerializeToString(deterministic=True) for model in models.values())
            if files in judged:
                continue
            judged.add(files)
            try:
                require_budget(agreement, models, precision)
            except (CalibrationError, ResultError) as error:
                missed[precision] = error
                break
    return missed


def _compose(
    manifest: Manifest,
    tables: Mapping[str, CalibrationTable],
    typed: Mapping[str, Sequence[TypedGraph]],
    missed: Mapping[Precision, EdgewiseError],
    samples: Mapping[str, Sequence[Tensors]],
) -> Quantised:
    files: dict[str, bytes] = {}
    graphs: dict[str, Graph] = {}
    steps = [step for step in manifest.provenance.steps if step.step not in _STEPS]
    paths = {name: f"calibration/{_prefix(name)}table.json" for name in tables}
    for name, table in tables.items():
        graph = manifest.graphs[name]
        lowered = {
            (target, each.record.precision): files
            for each in typed[name]
            for target, files in each.lowered.items()
        }
        files_of = stored(lowered, graph, samples[name], output_roles(manifest))
        named = name_model_files(name, files_of)
        graphs[name] = msgspec.structs.replace(
            graph, files=(*(file for file in graph.files if _is_fp32(file)), *named.entries)
        )
        files.update(named.files)
        files[paths[name]] = encode_table(table)
        steps.append(
            ProvenanceStep(
                step="calibrate",
                tool="edgewise",
                detail=f"{table.method.value} over {table.sample_count} images, {len(table.tensors)} tensors",
            )
        )
        steps += [step for each in typed[name] for step in each.steps]
        steps += _traffic(typed[name])
    steps += [
        ProvenanceStep(step=precision.value, tool="edgewise", detail=f"{NOT_MADE}{_in_one_line(error)}")
        for precision, error in missed.items()
    ]
    any_table = next(iter(tables.values()))
    return Quantised(
        msgspec.structs.replace(
            manifest,
            provenance=msgspec.structs.replace(manifest.provenance, steps=tuple(steps)),
            graphs=graphs,
            precisions=(
                *(record for record in manifest.precisions if _is_fp32(record)),
                *_records(typed),
            ),
            calibration=Calibration(
                method=any_table.method,
                tables=paths,
                sample_count=any_table.sample_count,
                seed=any_table.seed,
                samples_sha256=any_table.samples_sha256,
                preprocess_sha256=any_table.preprocess_sha256,
            ),
        ),
        files,
        missed,
    )


def _traffic(typed: Sequence[TypedGraph]) -> list[ProvenanceStep]:
    """What the model of TensorRT's kernels says of a graph's INT8; nothing without FP16 to compare with."""
    for target in (Target.TENSORRT, Target.TENSORRT_RTX):
        models = {each.record.precision: each.lowered.get(target) for each in typed}
        if len(models) < 2 or any(files is None for files in models.values()):
            continue
        try:
            words = compare({p: newest(files) for p, files in models.items() if files}).in_words()
        except ExportError as error:
            words = f"not modelled: {_in_one_line(error)}"
        return [ProvenanceStep(step=TRAFFIC, tool="edgewise", detail=f"on {target.value} {words}")]
    return []


def _in_one_line(error: EdgewiseError) -> str:
    return f"{error.what} ({error.where})" if error.where else error.what


def _prefix(graph: str) -> str:
    return "" if graph == "main" else f"{graph}."


def _records(typed: Mapping[str, Sequence[TypedGraph]]) -> list[PrecisionRecord]:
    """One record a precision, with the kept nodes of every graph."""
    records: dict[Precision, PrecisionRecord] = {}
    for name, every in typed.items():
        for each in every:
            kept = tuple(msgspec.structs.replace(node, graph=name) for node in each.record.kept)
            before = records.get(each.record.precision)
            records[each.record.precision] = msgspec.structs.replace(
                each.record, kept=(*(before.kept if before is not None else ()), *kept)
            )
    return list(records.values())


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
        calibration = msgspec.structs.replace(
            calibration,
            tables={name: names.get(path, path) for name, path in calibration.tables.items()},
        )
    return msgspec.structs.replace(manifest, graphs=graphs, calibration=calibration)
