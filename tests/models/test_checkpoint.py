import json
from functools import partial

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import (
    METADATA_KEY,
    CheckpointMeta,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.yolact.config import TINY
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.system.atomic import sha256_of
from edgewise.runtime.system.errors import CheckpointError

LABELS = tuple(ClassLabel(id=index, name=f"class {index}") for index in (3, 5))
ENTRY = registry.find("yolact-tiny").with_config(
    class_count=2, backbone={**msgspec.to_builtins(TINY.backbone), "depths": [1, 1, 1, 1]}
)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return ENTRY.build()


@pytest.fixture
def saved(module, tmp_path):
    path = tmp_path / "model.safetensors"
    meta = CheckpointMeta.of(
        ENTRY, Vocabulary(LABELS), training_command="edgewise train x", metrics={"mask_ap": 0.5}
    )
    save_checkpoint(path, module, meta)
    return path


def rewritten(path, change):
    """The checkpoint at `path` with its metadata changed."""
    meta, tensors = load_checkpoint(path)
    plain = msgspec.to_builtins(meta)
    change(plain)
    other = path.with_name("changed.safetensors")
    save_file(tensors, other, {METADATA_KEY: json.dumps(plain)})
    return other


def test_a_checkpoint_brings_its_model_back(module, saved):
    loaded = load_model(saved)
    assert loaded.entry == ENTRY
    assert loaded.meta.vocabulary == Vocabulary(LABELS)
    assert loaded.meta.metrics == {"mask_ap": 0.5}
    assert loaded.sha256 == sha256_of(saved)
    assert not loaded.module.training
    wanted = module.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in loaded.module.state_dict().items())


def test_the_same_module_gives_the_same_bytes(module, saved, tmp_path):
    meta, _ = load_checkpoint(saved)
    save_checkpoint(tmp_path / "again.safetensors", module, meta)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused_both_ways(module, saved, tmp_path, value):
    meta, tensors = load_checkpoint(saved)
    with torch.no_grad():
        module.fpn.lat_layers[0].bias[0] = value
    target = tmp_path / "new" / "nan.safetensors"
    with pytest.raises(CheckpointError, match=r"1 tensors hold NaN.*fpn\.lat_layers\.0\.bias"):
        save_checkpoint(target, module, meta)
    assert not target.parent.exists()
    tensors["fpn.lat_layers.0.bias"][0] = value
    save_file(tensors, tmp_path / "nan.safetensors", {METADATA_KEY: json.dumps(msgspec.to_builtins(meta))})
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(tmp_path / "nan.safetensors")


def test_a_missing_file_and_a_broken_one(tmp_path, saved):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(cut)
    cut.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(cut)


def test_a_foreign_safetensors_file(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="did not write"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta.update(format=2), "checkpoint format 2"),
        (lambda meta: meta.pop("format"), "metadata is broken"),
        (lambda meta: meta.update(surprise=1), "metadata is broken"),
        (lambda meta: meta.update(model="yolact-giant"), "unknown model 'yolact-giant'"),
        (lambda meta: meta["config"].update(class_count="x"), "not a config"),
        (lambda meta: meta["config"].update(class_count=3), "vocabulary of 2 things for the 3 things"),
        (lambda meta: meta.update(model="yolact-r50", config=R50_TWO_CLASSES), "do not fit the model"),
    ],
)
def test_metadata_that_does_not_fit(saved, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(rewritten(saved, change))


def test_imported_weights_keep_their_terms_where_the_file_does_not_say_them(saved):
    def older(plain, origin):
        del plain["licence"]
        plain.update(model="yolact-r50", origin=origin)

    for origin, licence in (("yolact published, sha256 0", "MIT"), ("", "")):
        meta, _ = load_checkpoint(rewritten(saved, partial(older, origin=origin)))
        assert meta.licence == licence


R50_TWO_CLASSES = msgspec.to_builtins(registry.find("yolact-r50").with_config(class_count=2).config)


def test_every_difference_is_listed(saved, tmp_path):
    meta, tensors = load_checkpoint(saved)
    del tensors["proto_net.0.bias"]
    tensors["fpn.extra"] = torch.zeros(2)
    tensors["semantic_seg_conv.bias"] = torch.zeros(9)
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, {METADATA_KEY: json.dumps(msgspec.to_builtins(meta))})
    with pytest.raises(CheckpointError) as caught:
        load_model(other)
    message = str(caught.value)
    assert "3 differences" in message
    for line in ("unmapped   fpn.extra", "missing    proto_net.0.bias", "mis-shaped semantic_seg_conv.bias"):
        assert line in message
