"""Decoding and the deploy module against the paper's procedure written as loops."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgewise.models import registry
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.yolact.config import MICRO, DecodingConfig, Suppression
from edgewise.models.families.yolact.decoding import decode_detections
from edgewise.models.families.yolact.deploy import YolactDeploy, assemble_masks
from edgewise.models.families.yolact.network import Yolact
from edgewise.runtime.contract.encoding import decode, encode
from edgewise.runtime.contract.manifest import ClassLabel, Provenance
from edgewise.runtime.system.errors import ModelError

from .declared_outputs import check_declared

pytestmark = pytest.mark.usefixtures("one_thread")

FORBIDDEN = {"NonZero", "NonMaxSuppression", "ScatterND", "GatherND", "Loop", "If", "Scan", "Range"}


def with_decoding(**changes) -> DecodingConfig:
    return msgspec.structs.replace(DecodingConfig(), **changes)


def seeded(config=MICRO, suppression=Suppression.FAST) -> Yolact:
    torch.manual_seed(3)
    decoding = msgspec.structs.replace(config.decoding, suppression=suppression, slots=20)
    network = Yolact(msgspec.structs.replace(config, decoding=decoding))
    torch.nn.init.normal_(network.prediction_layers[0].conf_layer.weight, std=0.3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def random_frames(count: int, config=MICRO) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *config.input_size, 3), dtype=torch.uint8, generator=generator)


# ---------------------------------------------------------------- decoding


def iou_matrix(boxes: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return inter / (area[:, None] + area[None] - inter)


def paper_fast(scores: np.ndarray, boxes: np.ndarray, config: DecodingConfig) -> list[tuple[float, int, int]]:
    """(score, class, prior) of the paper's Fast NMS, best first."""
    kept = np.flatnonzero(scores.max(axis=1) > config.score_threshold)
    found = []
    for label in range(scores.shape[1]):
        order = kept[np.argsort(-scores[kept, label], kind="stable")][: config.candidates]
        overlap = np.triu(iou_matrix(boxes[order]), 1)
        worst = overlap.max(axis=0) if len(order) else np.zeros(0)
        found += [
            (scores[p, label], label, int(p))
            for p, value in zip(order, worst, strict=True)
            if value <= config.iou_threshold
        ]
    return sorted(found, reverse=True)[: config.slots]


def paper_cross_class(scores: np.ndarray, boxes: np.ndarray, config: DecodingConfig):
    best = scores.max(axis=1)
    kept = np.flatnonzero(best > config.score_threshold)
    order = kept[np.argsort(-best[kept], kind="stable")][: config.candidates]
    overlap = np.triu(iou_matrix(boxes[order]), 1)
    return [
        (best[p], int(scores[p].argmax()), int(p))
        for p, value in zip(order, overlap.max(axis=0) if len(order) else (), strict=True)
        if value <= config.iou_threshold
    ][: config.slots]


def sequential(scores: np.ndarray, boxes: np.ndarray, config: DecodingConfig):
    found = []
    for label in range(scores.shape[1]):
        alive = np.flatnonzero(scores[:, label] > config.score_threshold)
        kept: list[int] = []
        for p in alive[np.argsort(-scores[alive, label], kind="stable")]:
            if all(iou_matrix(boxes[[p, q]])[0, 1] <= config.iou_threshold for q in kept):
                kept.append(int(p))
        found += [(scores[p, label], label, p) for p in kept]
    return sorted(found, reverse=True)[: config.slots]


def inclusive(scores: np.ndarray, boxes: np.ndarray, config: DecodingConfig):
    """As the published code's option `traditional` counts: a side is x2 - x1 + 1."""
    return sequential(scores, boxes + np.array([0.0, 0.0, 1.0, 1.0]), config)


REFERENCES = {
    Suppression.FAST: paper_fast,
    Suppression.CROSS_CLASS_FAST: paper_cross_class,
    Suppression.GREEDY: sequential,
    Suppression.TRADITIONAL: inclusive,
}


def random_predictions(seed: int, count: int, classes: int, sharpness: float):
    rng = np.random.default_rng(seed)
    conf = rng.normal(0, sharpness, (count, 1 + classes))
    conf[:, 0] += rng.choice([0.0, 6.0], count)
    centres = rng.uniform(0, 300, (4, 2))[rng.integers(0, 4, count)] + rng.normal(0, 8, (count, 2))
    sizes = rng.uniform(30, 70, (count, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    return torch.tensor(conf[None], dtype=torch.float32), torch.tensor(boxes[None], dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("suppression", list(Suppression))
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 80),
    candidates=st.sampled_from([5, 20, 200]),
    slots=st.sampled_from([3, 10, 100]),
    sharpness=st.sampled_from([0.5, 2.0, 6.0]),
)
def test_decoding_is_the_papers(suppression, seed, count, candidates, slots, sharpness):
    conf, boxes = random_predictions(seed, count, 3, sharpness)
    config = with_decoding(suppression=suppression, candidates=candidates, slots=slots, greedy_rounds=90)
    scores = torch.softmax(conf, dim=-1)[0, :, 1:].numpy().astype(np.float64)
    wider = np.array([0.0, 0.0, 1.0, 1.0]) * (suppression is Suppression.TRADITIONAL)
    overlaps = iou_matrix(boxes[0].double().numpy() + wider)
    # Where two scores or an overlap and its threshold agree to rounding, either answer is right.
    assume(len(np.unique(scores)) == scores.size)
    assume((np.abs(overlaps - config.iou_threshold) > 1e-5).all())
    wanted = REFERENCES[suppression](scores, boxes[0].double().numpy(), config)
    found = decode_detections(conf, boxes, config)
    full = int((found.scores[0] > 0).sum())
    assert found.scores.shape == (1, slots)
    assert full == len(wanted)
    assert found.classes[0, :full].tolist() == [label for _, label, _ in wanted]
    assert found.priors[0, :full].tolist() == [prior for _, _, prior in wanted]
    np.testing.assert_allclose(found.scores[0, :full], [score for score, _, _ in wanted], rtol=1e-6)
    assert torch.equal(found.boxes[0, :full], boxes[0, found.priors[0, :full]])
    assert not found.boxes[0, full:].any()
    if config.sequential:
        assert found.settled is not None
        assert found.settled.tolist() == [True]
    else:
        assert found.settled is None


def test_greedy_decoding_says_when_pairs_were_left_out():
    # Twenty boxes far apart, one confident class each: all twenty survive.
    corner = torch.arange(20, dtype=torch.float32)[:, None] * 50
    boxes = torch.cat((corner, corner, corner + 20, corner + 20), dim=1)[None]
    conf = torch.tensor([0.0, 5.0, -5.0]).repeat(1, 20, 1) - torch.arange(20)[None, :, None] * 1e-3
    conf[..., 0] = 0.0

    def settled(candidates: int, slots: int) -> bool:
        config = with_decoding(suppression=Suppression.GREEDY, greedy_candidates=candidates, slots=slots)
        found = decode_detections(conf, boxes, config)
        assert int((found.scores > 0).sum()) == min(candidates, slots, 20)
        return bool(found.settled[0])

    assert not settled(candidates=10, slots=100), "ten more are above the threshold and were never looked at"
    assert settled(candidates=10, slots=8), "eight better ones fill the slots"
    assert settled(candidates=21, slots=100), "the last pair taken is below the threshold"
    assert settled(candidates=1000, slots=100), "every pair was taken"


# ---------------------------------------------------------------- masks


def test_masks_are_cropped_by_the_papers_rule():
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.rand(1, 3, 4, generator=generator) * 2 - 1
    prototypes = torch.rand(1, 4, 16, 24, generator=generator)
    # An ordinary box, one with its corners swapped that leaves the image, and an empty slot.
    boxes = torch.tensor([[[10.0, 9.0, 37.0, 41.0], [80.0, 50.0, 120.0, 20.0], [0.0, 0.0, 96.0, 64.0]]])
    scores = torch.tensor([[0.9, 0.5, 0.0]])
    masks = assemble_masks(coefficients, prototypes, boxes, scores, (64, 96))[0]
    for slot in range(3):
        x1, y1, x2, y2 = boxes[0, slot].tolist()
        for row in range(16):
            for column in range(24):
                inside = (
                    max(min(x1, x2) / 4 - 1, 0) <= column < min(max(x1, x2) / 4 + 1, 24)
                    and max(min(y1, y2) / 4 - 1, 0) <= row < min(max(y1, y2) / 4 + 1, 16)
                    and slot < 2
                )
                logit = (coefficients[0, slot] * prototypes[0, :, row, column]).sum()
                wanted = torch.sigmoid(logit) if inside else torch.tensor(0.0)
                torch.testing.assert_close(masks[slot, row, column], wanted)


# ---------------------------------------------------------------- the module


def test_normalise_turns_bgr_into_rgb():
    frame = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(1, 64, 96, 3)
    pixel = registry.find("yolact-r50").normalise(frame)[0, :, 5, 5]
    wanted = [(30 - 123.68) / 58.40, (20 - 116.78) / 57.12, (10 - 103.94) / 57.38]
    torch.testing.assert_close(pixel, torch.tensor(wanted))


@pytest.mark.parametrize("suppression", list(Suppression))
def test_outputs_are_what_the_manifest_declares(suppression):
    network = seeded(suppression=suppression)
    entry = registry.find("yolact-tiny").from_config(msgspec.to_builtins(network.config))
    labels = tuple(ClassLabel(id=i, name=f"class {i}") for i in range(3))
    manifest = entry.manifest(Vocabulary(labels), Provenance(definition="registry:yolact-tiny"))
    assert decode(encode(manifest)) == manifest
    graph = manifest.graphs["main"]
    with torch.inference_mode():
        outputs = entry.deploy(network)(random_frames(1))
    specs = (*graph.outputs, *graph.probes)
    assert ("settled" in [spec.name for spec in specs]) == (
        suppression in (Suppression.GREEDY, Suppression.TRADITIONAL)
    )
    check_declared(graph, outputs)
    assert int((outputs[1] > 0).sum()) > 0
    assert torch.equal(outputs[1], outputs[1].sort(descending=True).values)


def test_labels_must_fit_the_classes():
    with pytest.raises(ModelError, match="1 things for the 6 things"):
        registry.find("yolact-tiny").manifest(
            Vocabulary((ClassLabel(id=1, name="x"),)), Provenance(definition="x")
        )


@pytest.mark.parametrize("suppression", list(Suppression))
def test_a_batch_is_its_images(suppression):
    network = seeded(suppression=suppression)
    deploy, frames = YolactDeploy(network.config, network), random_frames(3)
    with torch.inference_mode():
        together = deploy(frames)
        for index in range(3):
            for whole, single in zip(together, deploy(frames[index : index + 1]), strict=True):
                torch.testing.assert_close(whole[index : index + 1], single, rtol=1e-4, atol=1e-4)


def test_a_blank_result_is_all_zero():
    network = seeded()
    with torch.no_grad():
        network.prediction_layers[0].conf_layer.bias.view(-1, 4)[:, 0] = 50.0
    with torch.inference_mode():
        boxes, scores, classes, masks = YolactDeploy(network.config, network)(random_frames(1))[:4]
    assert not any(bool(value.any()) for value in (boxes, scores, classes, masks))


@pytest.mark.slow
@pytest.mark.parametrize("suppression", [Suppression.CROSS_CLASS_FAST, Suppression.GREEDY])
def test_the_graph_exports_to_plain_operators(suppression):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = seeded(suppression=suppression)
    deploy, frames = YolactDeploy(network.config, network).eval(), random_frames(1)
    program = torch.onnx.export(deploy, (frames,), dynamo=True, verbose=False)
    model = program.model_proto
    assert FORBIDDEN.isdisjoint({node.op_type for node in model.graph.node})
    assert next(node.op_type for node in model.graph.node if node.op_type != "Constant") == "Cast"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: frames.numpy()})
    with torch.inference_mode():
        wanted = deploy(frames)
    assert len(got) == len(wanted)
    for ours, theirs in zip(wanted, got, strict=True):
        expected = ours.numpy().astype(np.float64)
        error = np.abs(expected - theirs).max()
        assert error <= 1e-4 * max(np.abs(expected).max(), 1e-9)
