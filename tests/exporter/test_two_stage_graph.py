"""A small two-stage panoptic network with seeded weights: all that is hard for a compiler, in one graph.

Pyramid, proposals with TopK and suppression, pyramid RoIAlign in two sizes over the same levels, deformable
heads v1 and v2 on several levels, class-wise suppression, a class's mask chosen by a one-hot sum, masks that
GridSample pastes, an ArgMax over all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional

from edgewise.calibration.collect import calibrate
from edgewise.calibration.placement import place
from edgewise.calibration.qdq import quantise_s8
from edgewise.calibration.samples import CalibrationSet
from edgewise.exporter.bundle.goldens import drawn_frame
from edgewise.exporter.engines.check import check_realised
from edgewise.exporter.engines.compile import CompileJob, compile_graph
from edgewise.exporter.from_torch.onnx_export import comparable_names
from edgewise.exporter.graph.conditions import opset_of
from edgewise.exporter.graph.edit import element_types
from edgewise.exporter.graph.numerics import first_difference, run_graph
from edgewise.exporter.graph.passes import PassRunner, expose
from edgewise.exporter.passes.fp16 import choose_fp16, narrow_nodes
from edgewise.exporter.passes.narrow_codes import narrow_codes
from edgewise.exporter.passes.raise_opset import raise_opset
from edgewise.exporter.precision.typed_graphs import explained
from edgewise.exporter.targets.lowering import lower_for, newest
from edgewise.exporter.way.export import CanonicalGraph, canonical_graph
from edgewise.models.layers.anchors import AnchorRule, cell_anchors, level_anchors
from edgewise.models.layers.box_coding import BoxCoding
from edgewise.models.layers.deform_conv import DeformConv, ModulatedDeformConv
from edgewise.models.layers.nms import greedy_nms, rank_order
from edgewise.models.layers.roi_align import deploy_pyramid_roi_align, roi_levels
from edgewise.models.layers.two_stage.proposal_stage import ProposalConfig, proposals
from edgewise.models.measuring.torch_runner import TorchRunner
from edgewise.runtime.contract.manifest import (
    CalibrationMethod,
    DType,
    Graph,
    KeptNode,
    Precision,
    Target,
    TensorSpec,
)
from edgewise.runtime.contract.preprocessing import Stretch

SIZE = (128, 192)
STRIDES = (4, 8, 16, 32)
CHANNELS, CLASSES, STUFF, KEPT, SLOTS = 32, 5, 4, 64, 16
CODING = BoxCoding()

Typed = tuple[dict[Precision, onnx.ModelProto], dict[Precision, tuple[KeptNode, ...]]]


def _tensor(name: str, dtype: DType, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


GRAPH = Graph(
    inputs=(_tensor("image", DType.UINT8, 1, *SIZE, 3),),
    outputs=(
        _tensor("boxes", DType.FLOAT32, 1, SLOTS, 4),
        _tensor("scores", DType.FLOAT32, 1, SLOTS),
        _tensor("classes", DType.INT32, 1, SLOTS),
        _tensor("segments", DType.INT32, 1, SIZE[0] // 4, SIZE[1] // 4),
    ),
    probes=(
        _tensor("objectness", DType.FLOAT32, 1, 3, SIZE[0] // 4, SIZE[1] // 4),
        _tensor("semantic", DType.FLOAT32, 1, STUFF + CLASSES, SIZE[0] // 4, SIZE[1] // 4),
    ),
)


class TwoStage(nn.Module):
    """uint8 [1, H, W, 3] -> boxes, scores, classes, segments, objectness, semantic."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, CHANNELS, 3, 2, 1), nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
            )
            for inputs in (3, *[CHANNELS] * len(STRIDES))
        )
        self.proposal = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
        self.objectness = nn.Conv2d(CHANNELS, 3, 1)
        self.deltas = nn.Conv2d(CHANNELS, 12, 1)
        self.fc = nn.Linear(CHANNELS * 49, 64)
        self.classify = nn.Linear(64, CLASSES + 1)
        self.regress = nn.Linear(64, 4)
        self.mask = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
        self.upscale = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2)
        self.mask_logits = nn.Conv2d(CHANNELS, CLASSES, 1)
        plain, modulated = DeformConv(CHANNELS, CHANNELS), ModulatedDeformConv(CHANNELS, CHANNELS)
        self.deform = nn.ModuleList([plain, modulated])
        self.tap_readers = (plain.conv_offset, modulated.conv_offset_mask)
        self.score = nn.Conv2d(CHANNELS * len(STRIDES), STUFF + CLASSES, 1)
        for number, stride in enumerate(STRIDES):
            cells = cell_anchors(4.0 * stride, stride, (0.5, 1.0, 2.0), AnchorRule.TORCHVISION)
            grid = (SIZE[0] // stride, SIZE[1] // stride)
            self.register_buffer(f"anchors_{number}", level_anchors(cells, grid, stride))
        self.register_buffer("order", rank_order(KEPT * len(STRIDES)))
        self._initialise()

    def _initialise(self) -> None:
        """Weights under which things happen: several classes, overlapping boxes, taps that move by pixels."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        for reader in self.tap_readers:
            nn.init.normal_(reader.weight, std=0.1)
            nn.init.normal_(reader.bias, std=1.5)
        nn.init.normal_(self.classify.weight, std=0.5)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = (image.float().permute(0, 3, 1, 2) - 114.0) / 58.0
        levels = []
        for stage in self.stages:
            x = torch.relu(stage(x))
            levels.append(x)
        levels = levels[1:]
        shared = [torch.relu(self.proposal(level)) for level in levels]
        objectness = [self.objectness(level) for level in shared]
        anchors = [getattr(self, f"anchors_{number}") for number in range(len(levels))]
        found = proposals(
            objectness,
            [0.1 * self.deltas(level) for level in shared],
            anchors,
            coding=CODING,
            extent=SIZE,
            config=ProposalConfig(candidates=KEPT, kept=KEPT, rounds=4),
            order=self.order,
        )
        boxes, scores, classes = self.detect(levels, found.boxes[0])
        semantic = self.semantic(levels)
        chosen = self.chosen_masks(levels, boxes, classes)
        segments = self.compete(semantic, chosen, boxes, scores)
        return (
            boxes[None],
            scores[None],
            classes[None].to(torch.int32),
            segments.to(torch.int32),
            objectness[0],
            semantic,
        )

    def pool(self, levels: list[Tensor], boxes: Tensor, bins: int) -> Tensor:
        level = roi_levels(boxes, lowest=0, highest=len(levels) - 1, canonical_level=2, canonical_size=64.0)
        return deploy_pyramid_roi_align(levels, boxes, level, STRIDES, output=bins)

    def detect(self, levels: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.relu(self.fc(self.pool(levels, boxes, 7).flatten(1)))
        probability = torch.softmax(self.classify(hidden), dim=1)[:, 1:]
        decoded = CODING.clip(CODING.decode(0.1 * self.regress(hidden), boxes), SIZE)
        ranked, index = probability.flatten().topk(KEPT)
        rows = torch.div(index, CLASSES, rounding_mode="floor")
        classes = index - rows * CLASSES
        candidates = decoded.index_select(0, rows)
        keep, _ = greedy_nms(
            candidates[None], classes[None].float(), ranked[None] > 0.05, 0.5, 4, order=self.order
        )
        scores, best = torch.where(keep[0], ranked, 0.0).topk(SLOTS)
        return candidates.index_select(0, best), scores, classes.index_select(0, best)

    def semantic(self, levels: list[Tensor]) -> Tensor:
        maps = []
        for level in levels:
            for layer in self.deform:
                level = torch.relu(layer(level))
            size = (SIZE[0] // 4, SIZE[1] // 4)
            maps.append(functional.interpolate(level, size=size, mode="bilinear", align_corners=False))
        return self.score(torch.cat(maps, dim=1))

    def chosen_masks(self, levels: list[Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        x = torch.relu(self.mask(self.pool(levels, boxes, 14)))
        logits = self.mask_logits(torch.relu(self.upscale(x)))
        one_hot = (classes[:, None] == torch.arange(CLASSES)).float()
        return (logits * one_hot[:, :, None, None]).sum(dim=1, keepdim=True)

    def compete(self, semantic: Tensor, masks: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
        height, width = semantic.shape[2:]
        x1, y1, x2, y2 = (boxes / 4.0).unbind(dim=1)
        across = (torch.arange(width) + 0.5 - x1[:, None]) / (x2 - x1).clamp(min=1.0)[:, None] * 2.0 - 1.0
        down = (torch.arange(height) + 0.5 - y1[:, None]) / (y2 - y1).clamp(min=1.0)[:, None] * 2.0 - 1.0
        shape = (SLOTS, height, width)
        grid = torch.stack((across[:, None, :].expand(shape), down[:, :, None].expand(shape)), dim=-1)
        pasted = functional.grid_sample(masks, grid, align_corners=False)[:, 0]
        pasted = torch.where((scores > 0.0)[:, None, None], pasted, -100.0)
        unknown = semantic[:, STUFF:].amax(dim=1) - pasted.amax(dim=0, keepdim=True)
        return torch.cat((semantic[:, :STUFF], pasted[None], unknown[None]), dim=1).argmax(dim=1)


# ---------------------------------------------------------------- the graph on its way


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), drawn_frame(SIZE, np.random.default_rng(seed)))
    return folder


@pytest.fixture(scope="module")
def samples(pictures: Path) -> list[dict[str, np.ndarray]]:
    return [{"image": cv2.imread(str(path))[None]} for path in sorted(pictures.iterdir())[:2]]


@pytest.fixture(scope="module")
def network() -> TwoStage:
    torch.manual_seed(0)
    return TwoStage().eval()


@pytest.fixture(scope="module")
def made(network: TwoStage, samples: list[dict[str, np.ndarray]]) -> CanonicalGraph:
    return canonical_graph(network, GRAPH, samples)


@pytest.fixture(scope="module")
def typed(made: CanonicalGraph, pictures: Path) -> Typed:
    """The graph for TensorRT in every precision, not lowered yet, and the nodes that stay wider."""
    chosen = CalibrationSet.from_folder(pictures, count=2, seed=0)
    table = calibrate(made.fp32, chosen, Stretch(size=SIZE), method=CalibrationMethod.MINMAX)
    ranges = {name: (found.minimum, found.maximum) for name, found in table.tensors.items()}
    probes = [spec.name for spec in GRAPH.probes]
    half = choose_fp16(made.fp32, ranges, probes=probes)
    placement = place(made.fp32)
    raised = PassRunner([], []).run(raise_opset(), made.fp32).model
    codes = quantise_s8(raised, table, placement, half_scales=True)
    models = {
        Precision.FP32: made.fp32,
        Precision.FP16: narrow_nodes(copy_of(made.fp32), half.narrow),
        Precision.INT8: narrow_codes(codes, half.narrow),
    }
    return models, {
        Precision.FP32: (),
        Precision.FP16: half.kept,
        Precision.INT8: explained(placement.kept, half),
    }


@pytest.fixture(scope="module")
def lowered(typed: Typed, samples: list[dict[str, np.ndarray]]) -> dict[Precision, onnx.ModelProto]:
    """The typed graphs as TensorRT-RTX gets them."""
    runner = PassRunner(samples, comparable_names(GRAPH))
    return {
        precision: newest(lower_for(lambda release, model=model: model, Target.TENSORRT_RTX, runner))
        for precision, model in typed[0].items()
    }


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def kinds_of(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.slow
def test_things_happen(network: TwoStage, samples: list[dict[str, np.ndarray]]) -> None:
    """The other tests compare something: several classes, several sizes, instances that win."""
    values = TorchRunner(network, GRAPH).run(samples[0])
    assert len(np.unique(values["classes"])) > 1
    assert len(np.unique(values["segments"])) > 3
    assert (values["segments"] >= STUFF).any()
    sides = values["boxes"][0, :, 2:] - values["boxes"][0, :, :2]
    assert sides.max() > 3 * sides.min()


@pytest.mark.slow
def test_the_canonical_graph_is_native_and_clean(made: CanonicalGraph) -> None:
    kinds = kinds_of(made.canonical)
    assert kinds["RoiAlign"] == 2 * len(STRIDES)
    assert kinds["DeformConv"] == 2 * len(STRIDES)
    assert not {"GatherND", "NonZero", "ScatterND", "If", "Loop", "NonMaxSuppression"} & set(kinds)
    assert made.canonical.graph.node[0].op_type == "Cast"
    assert opset_of(made.canonical) == 19
    assert any("DeformConv" in step.detail for step in made.runner.steps if step.step == "opset-17")


@pytest.mark.slow
@pytest.mark.parametrize("target", list(Target))
def test_every_target_gives_the_same_result(
    made: CanonicalGraph, samples: list[dict[str, np.ndarray]], target: Target
) -> None:
    runner = PassRunner(samples, comparable_names(GRAPH))
    lowered = newest(lower_for(lambda release: made.fp32, target, runner))
    assert opset_of(lowered) == (19 if target is Target.ONNXRUNTIME else 17)
    names = [spec.name for spec in (*GRAPH.outputs, *GRAPH.probes)]
    for values, wanted in zip(
        run_graph(expose(lowered, names), samples), run_graph(expose(made.fp32, names), samples), strict=True
    ):
        assert first_difference(values, wanted, ["objectness", "semantic", "scores"], 1e-4) is None
        assert np.mean(values["segments"] != wanted["segments"]) < 1e-3


@pytest.mark.slow
def test_both_heads_share_the_atlas_and_constants(
    made: CanonicalGraph, lowered: dict[Precision, onnx.ModelProto]
) -> None:
    single = lowered[Precision.FP32]
    names = [node.name for node in single.graph.node]
    assert sum(name.endswith("/atlas") for name in names) == 1
    before, after = (
        sum(len(tensor.SerializeToString()) for tensor in model.graph.initializer)
        for model in (made.fp32, single)
    )
    assert after < before + 30_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(Precision))
def test_typed_graphs_sample_in_float32(
    typed: Typed, lowered: dict[Precision, onnx.ModelProto], precision: Precision
) -> None:
    """Lowering a typed graph keeps its numbers, and positions, geometry and decoding stay float32."""
    _, kept = typed
    model = lowered[precision]
    types = element_types(model)
    for node in model.graph.node:
        if node.op_type in (
            "GridSample",
            "Softmax",
            "TopK",
            "MatMul",
            "Exp",
            "Sigmoid",
            "Where",
            "AveragePool",
        ):
            assert {types[name] for name in node.input if name} <= SINGLE, node.name
    products = [node for node in model.graph.node if node.op_type == "Conv" and "/DeformConv" in node.name]
    assert len(products) == 2 * len(STRIDES)
    half = TensorProto.FLOAT if precision is Precision.FP32 else TensorProto.FLOAT16
    assert {types[node.input[0]] for node in products} == {half}
    if precision is Precision.INT8:
        reasons = {node.node: node.reason for node in kept[precision]}
        assert all("moves sampling points" in reasons[name] for name in reasons if "conv_offset" in name)
        assert {node.name for node in products} <= set(reasons)


SINGLE = {TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64, TensorProto.INT32}


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(Precision))
def test_the_rtx_compiler_builds_every_precision(
    typed: Typed, lowered: dict[Precision, onnx.ModelProto], precision: Precision
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the [rtx] extra is not installed")
    _, kept = typed
    job = CompileJob(
        model=lowered[precision].SerializeToString(deterministic=True),
        where="two-stage",
        graph=GRAPH,
        network_flags=("STRONGLY_TYPED",),
        compute_capabilities=("sm86",),
    )
    compiled = compile_graph(trt, job)
    check_realised(precision, compiled.weighted, kept[precision], compiled.layers, where="two-stage")
    print(f"\n{precision.value}: {compiled.seconds:.1f} s, {len(compiled.plan) / 1e6:.1f} MB")
