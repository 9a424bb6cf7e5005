import json
import re

import msgspec
import pytest

from edgewise.models import registry
from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.families.yolact.config import TINY, Suppression
from edgewise.runtime.system.errors import ModelError


def test_names_are_found():
    assert set(registry.names()) >= {"yolact-r50", "yolact-r101", "yolact-darknet53", "yolact-tiny"}
    for name in registry.names():
        assert registry.find(name).name == name


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelError) as caught:
        registry.find("yolact-r5O")
    message = str(caught.value)
    assert "did you mean yolact-r50?" in message
    assert all(name in message for name in registry.names())


def test_configs_change_by_field_and_stay_typed():
    entry = registry.find("yolact-tiny").with_config(class_count=11, input_size=(128, 160))
    assert (entry.config.class_count, entry.config.input_size) == (11, (128, 160))
    assert entry.config.backbone == TINY.backbone
    entry = entry.with_config(decoding={"suppression": "greedy"})
    assert entry.config.decoding.suppression is Suppression.GREEDY
    with pytest.raises(ModelError, match="no field 'classes'"):
        entry.with_config(classes=3)
    with pytest.raises(ModelError, match="not a config of yolact-tiny"):
        entry.with_config(class_count="many")


@pytest.mark.parametrize(
    "changes",
    [
        {"class_count": 0},
        {"input_size": (0, 64)},
        {"prediction_levels": (0, 7)},
        {"backbone_stages": (3, 4)},
        {"anchors": {"scales": [[10.0], [20.0, 30.0], [40.0]]}},
        {"anchors": {"scales": [[10.0]]}},
        {"prototypes": {"level": 9}},
        {"decoding": {"iou_threshold": 0.0}},
        {"decoding": {"slots": 4000}},
        {"std": (0.0, 1.0, 1.0)},
    ],
)
def test_configs_that_nothing_can_be_built_from_are_refused(changes):
    with pytest.raises(ModelError):
        registry.find("yolact-tiny").with_config(**changes)


def test_coco_labels_have_the_datasets_ids():
    assert len(COCO_THINGS) == 80
    assert [COCO_THINGS[index].id for index in (0, 11, 79)] == [1, 13, 90]
    assert len({label.name for label in COCO_THINGS}) == 80


@pytest.mark.parametrize("name", registry.names())
def test_every_field_of_a_config_can_be_set_by_its_name(name):
    entry = registry.find(name)
    plain = {field: json.dumps(msgspec.to_builtins(value)) for field, value in entry.fields.items()}
    assert "input_size" in plain
    assert entry.with_settings(plain) == entry, "all at once, by the values they have"
    words = {field: text[1:-1] for field, text in plain.items() if text[0] == '"' or "," in text}
    assert entry.with_settings(words) == entry, "as a plain word, or the parts of a list"
    for field, text in plain.items():
        with pytest.raises(ModelError, match=re.escape(f"{field} cannot be")):
            entry.with_settings({field: '{"not": "that"}'})
        with pytest.raises(ModelError, match="cannot be set"):
            entry.with_settings({f"{field}_": text})


def test_published_sizes_are_reachable_by_name():
    coco = registry.find("upsnet-r50-coco").with_settings({"input_size": "800,1344"})
    assert coco.preprocess.size == (800, 1344)
    city = {"input_size": "[1024, 2048]", "decoding.proposals.rounds": "48"}
    changed = registry.find("upsnet-r50-cityscapes").with_settings(city).config
    assert (changed.input_size, changed.decoding.proposals.rounds) == ((1024, 2048), 48)
    with pytest.raises(ModelError, match="multiples of 32"):
        registry.find("upsnet-r50-coco").with_settings({"input_size": "800,1333"})
    both = {"input_size": "96,96", "depth": "3"}
    assert registry.find("hourglass-1").with_settings(both).config.heatmap_size == (24, 24), (
        "one alone is refused"
    )
