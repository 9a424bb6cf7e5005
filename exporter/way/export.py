"""From training definitions and a draft manifest to a bundle: the public way out of torch.

    bundle = export_bundle({"main": deploy_module}, draft, Path("model.bundle"))

`draft` is a manifest that says everything but files, goldens and precisions; `docs/export.md` shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgewise.exporter.bundle.budgets import DEFAULT_BUDGETS
from edgewise.exporter.bundle.goldens import (
    GOLDEN_COUNT,
    Clip,
    Picture,
    clips_of,
    golden_pictures,
    make_goldens,
    read_frames,
    require_extremes,
)
from edgewise.exporter.bundle.model_files import name_model_files
from edgewise.exporter.bundle.tool_versions import tool_versions, writer
from edgewise.exporter.bundle.writer import Content, claim_destination, write_bundle
from edgewise.exporter.from_torch.onnx_export import (
    comparable_names,
    export_onnx,
    refuse_broken_weights,
    refuse_heavy_weights,
)
from edgewise.exporter.from_torch.simplify import simplify
from edgewise.exporter.graph.numerics import (
    GraphRunner,
    Roles,
    Tensors,
    every_float_alike,
    output_roles,
    roles_in,
)
from edgewise.exporter.graph.passes import PassRunner
from edgewise.exporter.graph.recorder import Recorder
from edgewise.exporter.passes.nan_sums import with_nan_sums
from edgewise.exporter.targets.lowering import canonicalise, lower_for, lower_fp32, stored
from edgewise.runtime.contract.bundle import Bundle
from edgewise.runtime.contract.check import check
from edgewise.runtime.contract.manifest import (
    Budget,
    Graph,
    Manifest,
    Precision,
    PrecisionRecord,
    Provenance,
    ProvenanceStep,
    Target,
)
from edgewise.runtime.system.errors import ExportError
from edgewise.runtime.walk.walk import Walk

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from edgewise.exporter.precision.calibration_images import CalibrationRequest, ChosenImages
    from edgewise.models.checkpoints.checkpoint import LoadedModel

CHECKPOINT = "source/checkpoint.safetensors"
CHECKED_FRAMES = 2
"""Frames on which every arrow's numbers are compared."""


def _silent(message: str) -> None:
    del message


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        replace: Exchange an existing bundle at the destination.
        device_only: Leave out `source/`, which parity on a workstation reads and a device does not.
        targets: Who shall run the bundle.
        images: Pictures for the goldens; without any, the calibration set gives them, else they are drawn.
        golden_count: Fewest frames of the self test, 2 or more; the last of a model of whole frames is plain.
        clips: The goldens themselves, for a model whose frames depend on each other and on what they show.
        batch: Most looks that one run of the bundle's files takes: crops of a frame, or whole frames of a
            model without state. None leaves what the draft says.
        calibration: Also make FP16 and INT8 files, from these images.
        budgets: What each precision may differ by, in place of the draft's; the defaults where neither says.
        name, licence: What the manifest says, in place of the draft's, where they are not empty.
        progress: Called with a line at the start of every step.

    Raises:
        ExportError: Too few goldens, or no look in a batch.
    """

    replace: bool = False
    device_only: bool = False
    targets: tuple[Target, ...] = tuple(Target)
    images: tuple[Path, ...] = ()
    golden_count: int = GOLDEN_COUNT
    clips: tuple[Clip, ...] = ()
    batch: int | None = None
    calibration: CalibrationRequest | None = None
    budgets: tuple[Budget, ...] = ()
    name: str = ""
    licence: str = ""
    progress: Callable[[str], None] = field(default=_silent, compare=False)

    def __post_init__(self) -> None:
        if self.golden_count < 2:
            raise ExportError(f"a self test on {self.golden_count} frames", hint="give 2 or more")
        if self.batch is not None and self.batch < 1:
            raise ExportError(f"a batch of {self.batch} looks", hint="give 1 or more, e.g. 8")


@dataclass(frozen=True, eq=False)
class CanonicalGraph:
    """One graph on its way: as exported, canonical, and in FP32 with outputs only.

    `runner` ran its passes, knows what flowed through them, and goes on from there.
    """

    graph: Graph
    exported: onnx.ModelProto
    canonical: onnx.ModelProto
    fp32: onnx.ModelProto
    runner: PassRunner


def export_bundle(
    modules: Mapping[str, nn.Module],
    draft: Manifest,
    destination: str | Path,
    options: ExportOptions | None = None,
    *,
    checkpoint: Content | None = None,
) -> Bundle:
    """Export deploy modules as a bundle.

    Args:
        modules: Graph name -> deploy module: `forward(uint8 image [1, H, W, 3])` returns the graph's outputs
            and then its probes, in the manifest's order.
        draft: The manifest without files, goldens and precisions; budgets may be left empty for the defaults.
        destination: The bundle's folder; appears whole or not at all.
        options: See `ExportOptions`.
        checkpoint: A file, or its content, to keep as `source/checkpoint.safetensors`.

    Raises:
        ManifestError: The draft does not fit together.
        ExportError: A module, an output, a number or a node that does not fit; the message names it.
        CalibrationError: Calibration images that are refused.
        EdgewiseError: The destination exists already, or somebody else writes it.
    """
    options = options or ExportOptions()
    destination = Path(destination)
    with claim_destination(destination, replace=options.replace):
        asked = _as_asked(draft, options)
        _check_modules(modules, asked)
        return _export(dict(modules), asked, destination, options, _shown(asked, options), checkpoint)


@dataclass(frozen=True, eq=False)
class _Shown:
    """The clips of the goldens, and the images of a calibration."""

    clips: tuple[Clip, ...]
    images: ChosenImages | None

    def judging(self, draft: Manifest) -> Iterator[Clip]:
        """What the precisions are judged on: the goldens, then the held-out images, read one by one.

        Those that only calibrate are left out: however many there are, they ask nothing more of a graph.
        """
        yield from self.clips
        if self.images is not None:
            from edgewise.exporter.precision.calibration_images import pictures_of

            for sample in self.images.held_out:
                yield from clips_of(draft, pictures_of([sample]))


def _shown(draft: Manifest, options: ExportOptions) -> _Shown:
    options.progress("reading images")
    images = _calibration_images(draft, options)
    pictures = golden_pictures(draft.preprocess, _pictures(images, options), count=options.golden_count)
    return _Shown(tuple(options.clips or clips_of(draft, pictures)), images)


def _export(
    modules: dict[str, nn.Module],
    draft: Manifest,
    destination: Path,
    options: ExportOptions,
    shown: _Shown,
    checkpoint: Content | None,
) -> Bundle:
    """See `export_bundle`; takes each module out of `modules`, because quantising needs the memory."""
    from edgewise.models.measuring.torch_runner import TorchRunner

    for name, module in modules.items():
        refuse_heavy_weights(module, name)
        refuse_broken_weights(module)
    options.progress("running the training definition")
    recorders = {
        name: Recorder(TorchRunner(modules[name], graph), CHECKED_FRAMES)
        for name, graph in draft.graphs.items()
    }
    goldens, prepared = make_goldens(draft, Walk(draft, recorders), shown.clips)
    files: dict[str, Content] = {path: data for golden in goldens for path, data in golden.files.items()}
    graphs: dict[str, Graph] = {}
    fp32: dict[str, onnx.ModelProto] = {}
    steps: list[ProvenanceStep] = []
    for name in draft.graphs:
        made = _fp32_graph(modules.pop(name), draft, name, recorders.pop(name), options)
        files |= made.files
        graphs[name], fp32[name] = made.graph, made.fp32
        steps += made.steps
    require_extremes(Walk(draft, {name: GraphRunner(model) for name, model in fp32.items()}))
    if checkpoint is not None and not options.device_only:
        files[CHECKPOINT] = checkpoint
    manifest = msgspec.structs.replace(
        draft,
        writer=writer(),
        provenance=msgspec.structs.replace(
            draft.provenance, tools=tool_versions(), steps=(*draft.provenance.steps, *steps)
        ),
        graphs=graphs,
        precisions=(PrecisionRecord(precision=Precision.FP32, asked="every node in float32"),),
        goldens=tuple(golden.golden for golden in goldens),
    )
    if options.calibration is not None and shown.images is not None:
        from edgewise.exporter.precision.quantise import quantise

        quantised = quantise(
            fp32, manifest, options.calibration, shown.images, prepared, options.targets, options.progress
        )
        manifest, files = quantised.manifest, {**files, **quantised.files}
    options.progress("writing the bundle")
    return write_bundle(destination, manifest, files, replace=options.replace)


@dataclass(frozen=True, eq=False)
class _Fp32Graph:
    """A graph with its FP32 files."""

    graph: Graph
    files: Mapping[str, bytes]
    fp32: onnx.ModelProto
    steps: Sequence[ProvenanceStep]


def _fp32_graph(
    module: nn.Module, draft: Manifest, name: str, ran: Recorder, options: ExportOptions
) -> _Fp32Graph:
    """One graph out of torch and lowered for every target.

    Args:
        ran: Kept what the module was given and what it gave.
    """
    graph = with_nan_sums(draft.graphs[name])
    made = canonical_graph(module, graph, ran.inputs, ran.outputs, options.progress, roles_in(draft, graph))
    lowered = {
        (target, Precision.FP32): lower_for(lambda release: made.fp32, target, made.runner)
        for target in options.targets
    }
    named = name_model_files(name, stored(lowered, graph, ran.inputs, output_roles(draft)))
    path = "models/canonical.onnx" if name == "main" else f"models/{name}.canonical.onnx"
    files = {path: _bytes(made.canonical), **named.files}
    if not options.device_only:
        files[exported_path(name)] = _bytes(made.exported)
    steps = list(made.runner.steps)
    if graph.batch > 1:
        free = f"1 to {graph.batch} looks in one run"
        steps.append(ProvenanceStep(step="free-batch", tool="edgewise", detail=free))
    graph = msgspec.structs.replace(graph, canonical=path, files=named.entries)
    return _Fp32Graph(graph, files, made.fp32, steps)


def exported_path(graph: str) -> str:
    """Where a bundle keeps a graph as torch exported it."""
    return "source/exported.onnx" if graph == "main" else f"source/{graph}.exported.onnx"


def export_checkpoint(
    checkpoint: str | Path,
    destination: str | Path,
    options: ExportOptions | None = None,
    *,
    settings: Mapping[str, str] | None = None,
) -> Bundle:
    """Export a checkpoint of the registry, with fields of its config set where `settings` names them.

    Where its graph suppresses by a fixed number of rounds, they grow until the goldens and the images that
    FP16 and INT8 are judged on settle. The bundle's copy of the checkpoint says them, and what was set.

    Raises:
        CheckpointError: The file is missing, of another model, or holds NaN weights, or they do not fit what
            was set.
        ModelError: A setting that the config does not have, or that does not fit it.
        ExportError, CalibrationError, EdgewiseError: As `export_bundle`.
    """
    options = options or ExportOptions()
    destination = Path(destination)
    with claim_destination(destination, replace=options.replace):
        module, draft, shown, copy = _settled(Path(checkpoint), options, settings or {})
        return _export({"main": module}, draft, destination, options, shown, copy)


def _settled(
    checkpoint: Path, options: ExportOptions, settings: Mapping[str, str]
) -> tuple[nn.Module, Manifest, _Shown, Content]:
    """The deploy module of a checkpoint whose suppression settles, its draft, what is shown to it, and the
    bundle's copy of the checkpoint."""
    from edgewise.exporter.way.settling import settled_model
    from edgewise.models.checkpoints.checkpoint import encode_checkpoint, load_model, under_config

    options.progress("loading the checkpoint")
    loaded = load_model(checkpoint)
    asked = under_config(loaded, loaded.entry.with_settings(settings))
    draft = _as_asked(_draft(asked), options)
    shown = _shown(draft, options)
    chosen, steps = settled_model(asked, draft, shown.judging(draft), options.progress)
    copy = checkpoint if chosen is loaded else encode_checkpoint(chosen.module, chosen.meta)
    final = _as_asked(_draft(chosen, steps), options)
    return chosen.entry.deploy(chosen.module), final, shown, copy


def _draft(loaded: LoadedModel, steps: tuple[ProvenanceStep, ...] = ()) -> Manifest:
    """The draft of a checkpoint's bundle."""
    provenance = Provenance(
        definition=f"registry:{loaded.entry.name}",
        checkpoint_sha256=loaded.sha256,
        training_command=loaded.meta.training_command,
        steps=steps,
    )
    draft = loaded.entry.manifest(loaded.meta.vocabulary, provenance)
    return msgspec.structs.replace(draft, licence=loaded.meta.licence)


def canonical_graph(
    module: nn.Module,
    graph: Graph,
    samples: Sequence[Tensors],
    reference: Sequence[Tensors] | None = None,
    progress: Callable[[str], None] = _silent,
    roles: Roles = every_float_alike,
) -> CanonicalGraph:
    """Export, simplify and lower one graph to FP32, comparing the numbers after every step.

    Args:
        samples: Inputs for the comparisons.
        reference: What the module gives for them; computed where it is None.
        roles: What its outputs are, for the comparisons.

    Raises:
        ExportError: A step fails or changes the numbers.
    """
    import onnxsim
    import torch

    progress("exporting with torch.onnx")
    exported = export_onnx(module, graph, samples, reference, roles)
    progress("simplifying with onnxsim")
    simplified = simplify(exported, graph, samples, roles, reference)
    before, after = len(exported.graph.node), len(simplified.graph.node)
    progress("lowering")
    runner = PassRunner(samples, comparable_names(graph), roles)
    runner.steps += [
        ProvenanceStep(step="export", tool=f"torch.onnx {torch.__version__}", detail=f"{before} nodes"),
        ProvenanceStep(
            step="simplify", tool=f"onnxsim {onnxsim.__version__}", detail=f"{before} to {after} nodes"
        ),
    ]
    canonical = canonicalise(simplified, runner)
    fp32 = lower_fp32(canonical, graph, runner)
    return CanonicalGraph(graph, exported, canonical, fp32, runner)


def _as_asked(draft: Manifest, options: ExportOptions) -> Manifest:
    """The draft with what the options say in its place; ManifestError where it does not fit together."""
    graphs = draft.graphs
    if options.batch is not None:
        graphs = {name: msgspec.structs.replace(graph, batch=options.batch) for name, graph in graphs.items()}
    asked = msgspec.structs.replace(
        draft,
        graphs=graphs,
        name=options.name or draft.name,
        licence=options.licence or draft.licence,
        budgets=options.budgets or draft.budgets or DEFAULT_BUDGETS,
    )
    check(asked)
    return asked


def _check_modules(modules: Mapping[str, nn.Module], draft: Manifest) -> None:
    if set(modules) != set(draft.graphs):
        raise ExportError(
            f"modules are given for {sorted(modules)}, the manifest declares {sorted(draft.graphs)}",
            hint="give one deploy module per graph",
        )


def _calibration_images(draft: Manifest, options: ExportOptions) -> ChosenImages | None:
    if options.calibration is None:
        return None
    from edgewise.exporter.precision.calibration_images import choose_images

    return choose_images(options.calibration, draft)


def _pictures(images: ChosenImages | None, options: ExportOptions) -> list[Picture]:
    if options.images:
        return [Picture(frame) for frame in read_frames(options.images)]
    if images is not None:
        from edgewise.exporter.precision.calibration_images import pictures_of

        return pictures_of(images.calibration.samples[: options.golden_count - 1])
    return []


def _bytes(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)
