"""Published layouts, from state dicts made after their key tables."""

import json
import os
import re
from argparse import Namespace
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgewise.models import registry
from edgewise.models.checkpoints.checkpoint import load_model
from edgewise.models.checkpoints.upstream import convert_checkpoint, import_checkpoint, named_classes
from edgewise.models.data.labels import COCO_THINGS
from edgewise.models.data.vocabulary import Vocabulary
from edgewise.models.families.layout import map_state
from edgewise.models.families.yolact.layouts import PUBLISHED as PUBLISHED_LAYOUT
from edgewise.runtime.contract.manifest import ClassLabel
from edgewise.runtime.system.errors import CheckpointError

from .published_keys import published_table

PUBLISHED = ("yolact-r50", "yolact-r101", "yolact-darknet53")


def published_state(name: str) -> dict[str, torch.Tensor]:
    """A state_dict with the keys and shapes of a published file, every tensor of its own value."""
    table = published_table(name)
    state = {}
    for index, (key, shape) in enumerate(table.items()):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(800_000)
        else:
            state[key] = torch.full(shape, (1 + index) / len(table))
    return state


COCO_TINY = registry.find("yolact-tiny").with_config(class_count=80)


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    """The small model of the same family in the same published form: the same code path, quickly."""
    torch.manual_seed(0)
    return COCO_TINY.build().state_dict()


def written(state: object, folder: Path) -> Path:
    path = folder / "published.pth"
    torch.save(state, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_arrive_whole(name, tmp_path):
    state = published_state(name)
    module, report = import_checkpoint(written(state, tmp_path), registry.find(name))
    assert report.tensors == len(state)
    assert report.vocabulary == Vocabulary(COCO_THINGS)
    assert not module.training
    loaded = module.state_dict()
    for key, tensor in state.items():
        assert torch.equal(loaded[key.replace("._preconv.", ".preconv.")], tensor), key


@pytest.mark.parametrize("wrap", ["state_dict", "module.", "half", "legacy", "safetensors"])
def test_forms_in_which_the_same_weights_come(wrap, tiny, tmp_path):
    state = dict(tiny)
    if wrap == "legacy":
        state |= {
            "backbone.layer1.0.conv1.weight": torch.zeros(3),
            "fpn.downsample_layers.2.bias": torch.zeros(3),
        }
    if wrap == "half":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    if wrap == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    path = written({"epoch": 3, "state_dict": state} if wrap == "state_dict" else state, tmp_path)
    if wrap == "safetensors":
        path = tmp_path / "published.safetensors"
        save_file(state, path)
    module, report = import_checkpoint(path, COCO_TINY)
    assert len(report.dropped) == (2 if wrap == "legacy" else 0)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    weight = module.fpn.lat_layers[1].weight.detach()
    torch.testing.assert_close(weight, tiny["fpn.lat_layers.1.weight"], rtol=1e-3, atol=1e-6)


class Settings(dict):
    """A config object of a training framework: a dictionary by another name, with a state of its own."""

    def __init__(self, **items: object) -> None:
        super().__init__(items)
        self.frozen = True


def behind(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


SAVED = {
    "torch.compile": lambda state: behind("_orig_mod.", state),
    "parallel and compiled": lambda state: behind("module._orig_mod.", state),
    "a wrapper around the network": lambda state: {
        "state_dict": behind("model.net.", state) | {"criterion.weight": torch.ones(3)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    },
    "AveragedModel": lambda state: behind("module.", state) | {"n_averaged": torch.tensor(3)},
    "under a name": lambda state: {"generator": {"params": state}, "epoch": 3},
    "numbers of NumPy": lambda state: {"state_dict": state, "best": np.float64(0.9), "all": np.ones(3)},
    "a Namespace": lambda state: {"model": state, "args": Namespace(rate=0.1, path=Path("x"))},
    "dictionaries by other names": lambda state: {
        "model": state, "hyper_parameters": Settings(rate=0.1), "log": defaultdict(list, loss=[1.0]),
    },
    "no counted batches": lambda state: {
        key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")
    },
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("saved", SAVED)
def test_checkpoints_as_people_save_them(saved, zipped, tiny, tmp_path):
    path = tmp_path / "own.pth"
    torch.save(SAVED[saved](tiny), path, _use_new_zipfile_serialization=zipped)
    module, report = import_checkpoint(path, COCO_TINY)
    for key, tensor in module.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(tensor, tiny[key]), key
    beside = {"AveragedModel": ("n_averaged",), "a wrapper around the network": ("state_dict.criterion",)}
    assert report.dropped == beside.get(saved, ())


@pytest.mark.parametrize(
    "pair", [("model", "ema"), ("state_dict", "state_dict_ema"), ("student.", "teacher.")]
)
def test_one_of_two_sets_of_weights_is_chosen_by_name(pair, tiny, tmp_path):
    average = {key: value + 1 if value.is_floating_point() else value for key, value in tiny.items()}
    both = dict(zip(pair, (tiny, average), strict=True))
    if pair[0].endswith("."):
        both = behind(pair[0], tiny) | behind(pair[1], average)
    path, (first, second) = written(both, tmp_path), (name.rstrip(".") for name in pair)
    with pytest.raises(
        CheckpointError, match=f"(?s)2 sets of weights.*--weights {first} or --weights {second}"
    ):
        import_checkpoint(path, COCO_TINY)
    with pytest.raises(CheckpointError, match=f"(?s)are called 'other'.*{first}, {second}"):
        import_checkpoint(path, COCO_TINY, "other")
    for name, state in ((first, tiny), (second, average)):
        module, report = import_checkpoint(path, COCO_TINY, name)
        assert report.weights == name
        assert torch.equal(module.state_dict()["proto_net.0.bias"], state["proto_net.0.bias"])


def test_classes_of_ones_own(tmp_path):
    names = named_classes("bolt, nut, pin", COCO_TINY)
    assert [(label.id, label.name) for label in names.classes] == [(1, "bolt"), (2, "nut"), (3, "pin")]
    entry = COCO_TINY.fit(names)
    path = written(entry.build().state_dict(), tmp_path)
    convert_checkpoint(path, entry, tmp_path / "own.safetensors", names)
    assert load_model(tmp_path / "own.safetensors").meta.vocabulary == names
    categories = [{"id": 4, "name": "bolt"}, {"id": 9, "name": "nut"}]
    dataset = {"images": [{"id": 1, "file_name": "x.png", "height": 1, "width": 1}], "annotations": []}
    (tmp_path / "x.png").touch()
    (tmp_path / "own.json").write_text(json.dumps({**dataset, "categories": categories}))
    assert [label.id for label in named_classes(str(tmp_path / "own.json"), COCO_TINY).classes] == [4, 9]


@pytest.mark.slow
def test_every_difference_is_in_one_error(tiny, tmp_path):
    state = dict(tiny)
    del state["proto_net.4.bias"], state["backbone.bn1.running_var"]
    state["maskiou_net.0.weight"] = torch.zeros(8, 1, 3, 3)
    state["prediction_layers.0.conf_layer.bias"] = torch.zeros(63)
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(written(state, tmp_path), COCO_TINY)
    message = str(caught.value)
    assert "4 differences" in message
    assert "nothing was loaded" in message
    for line in (
        "missing    proto_net.4.bias [24]",
        "missing    backbone.bn1.running_var [16]",
        "unmapped   maskiou_net.0.weight [8, 1, 3, 3]",
        "mis-shaped prediction_layers.0.conf_layer.bias [63], the model wants [486]",
    ):
        assert line in message


def test_two_keys_for_one_place():
    # Only DarkNet's stem has two spellings: the published one and our own.
    first, second = torch.zeros(1), torch.ones(1)
    state = {"backbone._preconv.0.weight": first, "backbone.preconv.0.weight": second}
    mapped = map_state(PUBLISHED_LAYOUT, state, {"backbone.preconv.0.weight": (1,)})
    assert len(mapped.problems) == 1
    assert mapped.problems[0].startswith("mapped twice backbone.preconv.0.weight")


@pytest.mark.slow
def test_another_models_checkpoint_is_named(tmp_path):
    state = registry.find("yolact-tiny").build().state_dict()
    with pytest.raises(CheckpointError, match="it is a checkpoint of yolact-tiny: pass --model yolact-tiny"):
        import_checkpoint(written(state, tmp_path), registry.find("yolact-r50"))
    with pytest.raises(CheckpointError, match="choose the model"):
        import_checkpoint(written({"fc.weight": torch.zeros(2)}, tmp_path), registry.find("yolact-r50"))


def test_non_finite_weights_are_refused(tiny, tmp_path):
    state = dict(tiny) | {"proto_net.0.bias": torch.full((48,), float("nan"))}
    with pytest.raises(CheckpointError, match=r"NaN.*proto_net\.0\.bias"):
        import_checkpoint(written(state, tmp_path), COCO_TINY)


class Dangerous:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_code_in_a_pickle_never_runs(tmp_path):
    mark = tmp_path / "ran"
    for zipped in (True, False):
        torch.save({"w": Dangerous(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"never runs: posix\.mkdir") as caught:
            import_checkpoint(tmp_path / "w.pth", registry.find("yolact-r50"))
        assert not re.search("\x1b|weights_only|two options", str(caught.value))
    assert not mark.exists()


def test_a_pickled_network_is_named(tmp_path):
    path = written(torch.nn.Conv2d(1, 1, 1), tmp_path)
    with pytest.raises(CheckpointError, match=r"pickled torch\.nn\.modules\.conv\.Conv2d"):
        import_checkpoint(path, COCO_TINY)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 64, b"PK\x03\x04" + b"\0" * 64, b"\x80\x02}q\x00."],
)
def test_files_that_are_no_checkpoints(content, tmp_path):
    for name in ("file.pth", "file.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            import_checkpoint(path, registry.find("yolact-r50"))


def test_a_cut_checkpoint_and_a_missing_one(tmp_path):
    path = written({"w": torch.zeros(1000)}, tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        import_checkpoint(path, registry.find("yolact-r50"))
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        import_checkpoint(tmp_path / "absent.pth", registry.find("yolact-r50"))


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {}, {"w": 3}, {1: torch.zeros(3)}])
def test_plain_files_without_a_state(content, tmp_path):
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        import_checkpoint(written(content, tmp_path), registry.find("yolact-r50"))


def test_conversion_writes_a_checkpoint_or_nothing(tiny, tmp_path):
    source, target = written(tiny, tmp_path), tmp_path / "out" / "tiny.safetensors"
    with pytest.raises(CheckpointError, match="1 things for the 80 things"):
        convert_checkpoint(source, COCO_TINY, target, Vocabulary((ClassLabel(id=1, name="x"),)))
    assert not target.parent.exists()
    entry = replace(COCO_TINY, licence="MIT")
    report = convert_checkpoint(source, entry, target)
    loaded = load_model(target)
    assert loaded.entry == COCO_TINY
    assert loaded.meta.vocabulary == Vocabulary(COCO_THINGS)
    assert report.sha256 in loaded.meta.origin
    assert loaded.meta.licence == "MIT"
