"""Pickled dictionaries of arrays, as detectron2's model zoo has them."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise.models import registry
from edgewise.models.checkpoints.upstream import import_checkpoint, read_tensors
from edgewise.runtime.system.errors import CheckpointError

ARRAYS = {
    "single": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([[1.5, -2.0]], np.float16),
    "swapped": np.arange(4, dtype=">f8"),
    "columns": np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
    "bytes": np.arange(5, dtype=np.uint8),
    "none": np.zeros((0, 4), np.float32),
    "truth": np.array([True, False]),
    "number": np.float32(3.25),
}


def written(content: object, path: Path, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_become_tensors(protocol, tmp_path):
    content = {"model": ARRAYS, "__author__": "somebody", "names": np.array(["a"]), "iteration": 7}
    found = read_tensors(written(content, tmp_path / "w.pkl", protocol))
    assert found.keys() == {f"model.{name}" for name in ARRAYS}
    for name, array in ARRAYS.items():
        wanted = np.asarray(array)
        tensor = found[f"model.{name}"]
        assert tuple(tensor.shape) == wanted.shape
        assert tensor.numpy().dtype == wanted.dtype.newbyteorder("=")
        np.testing.assert_array_equal(tensor.numpy(), wanted)


class Dangerous:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_no_code_runs(tmp_path):
    mark = tmp_path / "ran"
    content = {"weight": np.zeros(3, np.float32), "other": Dangerous(mark)}
    assert read_tensors(written(content, tmp_path / "w.pkl", 4)).keys() == {"weight"}
    assert not mark.exists()


def test_arrays_that_are_none(tmp_path):
    """More shape than bytes, a function given a state, a dictionary in itself, an end too early."""
    whole = pickle.dumps({"weight": np.zeros((2, 3), np.float32)}, protocol=2)
    larger = whole.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86")
    assert larger != whole
    stateful = b"\x80\x02}cnumpy.core.multiarray\n_reconstruct\n}(U\x08__name__U\x01xub."
    for content in (larger, stateful, whole[:-9], b"\x80\x02." + struct.pack("q", 0)):
        path = tmp_path / "w.pkl"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_tensors(path)
    itself: dict[str, object] = {"weight": np.ones(2, np.float32)}
    itself["again"] = itself
    assert torch.equal(read_tensors(written(itself, path, 2))["weight"], torch.ones(2))


@pytest.mark.slow
def test_the_model_zoos_form_arrives_whole(tmp_path):
    """Keys of detectron2's file, as arrays, with what lies beside its weights."""
    from .test_upstream import published_state

    entry = registry.find("mask-rcnn-r50-detectron2")
    state = {key: tensor.numpy() for key, tensor in published_state(entry.name).items()}
    beside = {
        "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32),
        "pixel_mean": np.zeros((3, 1, 1), np.float32),
    }
    content = {"model": {**state, **beside}, "__author__": "Detectron2 Model Zoo"}
    module, report = import_checkpoint(written(content, tmp_path / "model_final.pkl", 2), entry)
    assert set(report.dropped) == set(beside)
    assert report.tensors == len(state)
    loaded = module.state_dict()
    shortcut = state["backbone.bottom_up.res3.0.shortcut.norm.running_var"]
    assert torch.equal(loaded["backbone.layers.1.0.downsample.1.running_var"], torch.from_numpy(shortcut))
    del content["model"]["roi_heads.mask_head.deconv.bias"]
    content["model"]["roi_heads.mask_head.extra"] = np.zeros(2, np.float32)
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(written(content, tmp_path / "broken.pkl", 2), entry)
    assert "missing    mask_head.doubling.bias [256]" in str(caught.value)
    assert "unmapped   roi_heads.mask_head.extra [2]" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "table", ["mask-rcnn-r50-v1", "old/mask-rcnn-r50-v1", "mask-rcnn-r50-v2", "old/keypoint-rcnn-r50-v1"]
)
def test_files_of_torchvision_arrive_whole(table, tmp_path):
    from .test_upstream import published_state

    state = published_state(table)
    path = tmp_path / "published.pth"
    torch.save(state, path)
    module, report = import_checkpoint(path, registry.find(table.removeprefix("old/")))
    assert report.tensors == len(state)
    assert report.layout == "torchvision"
    assert torch.equal(
        module.state_dict()["box_head.bbox_pred.weight"], state["roi_heads.box_predictor.bbox_pred.weight"]
    )
