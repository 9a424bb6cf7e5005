"""UPSNet's deploy module against the published procedure, one region and one instance at a time."""

import msgspec
import pytest
import torch
from torch.nn import functional as F

from edgewise.models import registry
from edgewise.models.data.labels import COCO_PANOPTIC
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.upsnet.config import R50_CITYSCAPES, R50_COCO, ColourOrder
from edgewise.models.families.upsnet.deploy import UpsnetDeploy
from edgewise.models.families.upsnet.network import Upsnet
from edgewise.models.families.upsnet.panoptic_head import panoptic_map
from edgewise.runtime.contract.encoding import decode, encode
from edgewise.runtime.contract.manifest import ClassKind, ClassLabel, Provenance
from edgewise.runtime.contract.preprocessing import PadSide
from edgewise.runtime.system.errors import ModelError

from .micro_upsnet import MICRO

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = Vocabulary(
    (
        *(ClassLabel(id=1 + index, name=f"thing {index}") for index in range(3)),
        *(ClassLabel(id=10 + index, name=f"stuff {index}", kind=ClassKind.STUFF) for index in range(2)),
    )
)


def seeded(config=MICRO, seed: int = 3) -> Upsnet:
    """Weights with which some regions are of a clear class, at probabilities that can be told apart."""
    torch.manual_seed(seed)
    network = Upsnet(config)
    torch.nn.init.normal_(network.proposal_head.objectness.weight, std=0.5)
    torch.nn.init.normal_(network.proposal_head.deltas.weight, std=0.1)
    torch.nn.init.normal_(network.box_head.cls_score.weight, std=0.12)
    torch.nn.init.normal_(network.box_head.bbox_pred.weight, std=0.3)
    for layer in network.semantic_head.layers:
        torch.nn.init.normal_(layer.conv_offset.weight, std=0.05)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def random_frame(config=MICRO, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, *config.input_size, 3), dtype=torch.uint8, generator=generator)


def entry_of(config):
    return registry.find("upsnet-tiny").from_config(msgspec.to_builtins(config))


def sequential_candidates(network: Upsnet, features, config) -> list[tuple[float, int, list[float]]]:
    """(probability, class, box) of the instances that go to the mask head, best first."""
    (regions,) = network.proposal_head.propose(
        features.proposals, config.decoding.proposals, exact=True
    ).of_images()
    stage = config.box_stage
    logits, deltas = network.box_head(stage.pooling.pool(features.levels, regions, stage.bins))
    candidates = []
    for region, probabilities, delta in zip(regions, logits.softmax(dim=1), deltas, strict=True):
        for label in range(1, len(probabilities)):
            if float(probabilities[label]) > config.decoding.score_threshold:
                box = stage.coding.clip(stage.coding.decode(delta[label], region), config.input_size)
                candidates.append((float(probabilities[label]), label - 1, box.tolist()))
    kept: list[tuple[float, int, list[float]]] = []
    for candidate in sorted(candidates, key=lambda item: -item[0]):
        if all(legacy_iou(candidate[2], other[2]) <= config.decoding.iou_threshold for other in kept):
            kept.append(candidate)
    return kept[: config.decoding.slots]


def legacy_iou(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    inter = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    return inter / (sum(areas) - inter)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("colour", list(ColourOrder))
def test_the_graph_is_the_procedure_step_by_step(stride, colour):
    config = msgspec.structs.replace(
        MICRO, colour=colour, decoding=msgspec.structs.replace(MICRO.decoding, panoptic_stride=stride)
    )
    network, frame, entry = seeded(config), random_frame(), entry_of(config)
    with torch.inference_mode():
        boxes, scores, classes, segments, semantic, settled, *_, fcn_score = entry.deploy(network)(frame)
        features = network(entry.normalise(frame))
        wanted = sequential_candidates(network, features, config)
        slots = config.decoding.slots
        regions = torch.zeros(slots, 4)
        labels = torch.zeros(slots, dtype=torch.int64)
        for index, (_, label, box) in enumerate(wanted):
            regions[index], labels[index] = torch.tensor(box), label
        logits = network.mask_head(config.mask_stage.pooling.pool(features.levels, regions, config.mask_bins))
        chosen = torch.stack([logits[slot, 1 + labels[slot]] for slot in range(slots)])
        maps = F.interpolate(features.scores, size=config.panoptic_size, mode="bilinear")[0]
        panoptic = panoptic_map(
            maps, chosen, regions, labels, torch.arange(slots) < len(wanted),
            stuff_count=2, stride=stride, overlap=0.3, rounds=slots + 1,
        )  # fmt: skip
    assert len(wanted) >= 5
    assert int(settled) == 1
    torch.testing.assert_close(fcn_score, features.scores, rtol=1e-4, atol=1e-4)
    alive = panoptic.alive.tolist()
    for slot in range(slots):
        if slot < len(wanted) and alive[slot]:
            probability, label, (x1, y1, x2, y2) = wanted[slot]
            assert float(scores[0, slot]) == pytest.approx(probability, abs=1e-4)
            assert int(classes[0, slot]) == label
            assert boxes[0, slot].tolist() == pytest.approx([x1, y1, x2 + 1, y2 + 1], abs=1e-2)
        else:
            assert not bool(boxes[0, slot].any())
            assert (float(scores[0, slot]), int(classes[0, slot])) == (0.0, 0)
    assert float((segments[0] != panoptic.segments).float().mean()) < 0.005
    channel = maps.argmax(dim=0)
    expected = torch.tensor([3, 4, 0, 1, 2])[channel]
    assert float((semantic[0] != expected).float().mean()) < 0.005


@pytest.mark.parametrize("config", [R50_COCO, R50_CITYSCAPES])
def test_published_sizes_have_a_valid_manifest(config):
    entry = entry_of(config)
    vocabulary = next(
        layout.vocabulary for layout in entry.layouts if layout.vocabulary.size == entry.vocabulary_size
    )
    manifest = entry.manifest(vocabulary, Provenance(definition="upsnet"))
    assert decode(encode(manifest)) == manifest
    shapes = {spec.name: spec.shape for spec in manifest.graphs["main"].outputs}
    assert shapes["boxes"] == (1, 100, 4)
    assert shapes["segments"] == shapes["semantic"] == (1, 128, 256)
    assert manifest.preprocess.pad_value == (103, 116, 123)
    assert manifest.postprocess.stuff_area_limit == config.decoding.stuff_area_limit


def test_frames_stand_in_a_corner_of_the_mean_colour():
    spec = entry_of(MICRO).preprocess
    assert (spec.pad_side, spec.pad_value) == (PadSide.BOTTOM_RIGHT, (104, 117, 124))


def test_vocabularies_must_fit():
    with pytest.raises(ModelError, match="80 things, 53 stuff for the 6 things, 6 stuff"):
        registry.find("upsnet-tiny").manifest(COCO_PANOPTIC, Provenance(definition="x"))


def test_a_frame_with_nothing_found():
    network = seeded()
    with torch.no_grad():
        network.box_head.cls_score.bias[0] = 500.0
    with torch.inference_mode():
        outputs = UpsnetDeploy(MICRO, network)(random_frame())
    boxes, scores, classes, segments, _, settled = outputs[:6]
    assert not any(bool(value.any()) for value in (boxes, scores, classes))
    assert int(settled) == 1
    maps = F.interpolate(outputs[-1], size=(64, 96), mode="bilinear")[0]
    wanted = torch.cat((maps[:2], maps[2:].amax(dim=0, keepdim=True))).argmax(dim=0)
    wanted = torch.where(wanted == 2, 2 + MICRO.decoding.slots, wanted)
    assert torch.equal(segments[0].long(), wanted)


def test_the_training_module_is_left_as_it_is():
    network = seeded()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.inference_mode():
        UpsnetDeploy(MICRO, network)(random_frame())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
