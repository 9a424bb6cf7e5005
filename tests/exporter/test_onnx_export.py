from __future__ import annotations

import re
from types import ModuleType
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgewise.exporter.from_torch.failure import untranslatable
from edgewise.exporter.from_torch.onnx_export import (
    export_onnx,
    refuse_broken_weights,
    refuse_heavy_weights,
)
from edgewise.exporter.graph.numerics import first_difference, run_graph
from edgewise.exporter.way.export import CanonicalGraph
from edgewise.models.measuring.torch_runner import TorchRunner, named_tensors
from edgewise.runtime.contract.manifest import DType, Graph, TensorSpec
from edgewise.runtime.system.errors import ExportError

Samples = list[dict[str, np.ndarray]]


def graph_of(*outputs: tuple[str, DType, tuple[int, ...]]) -> Graph:
    return Graph(
        inputs=(TensorSpec(name="image", dtype=DType.UINT8, shape=(1, 8, 8, 3)),),
        outputs=tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in outputs),
    )


PLAIN = graph_of(("values", DType.FLOAT32, (1, 3, 8, 8)))
SAMPLE = {"image": np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)}


class Plain(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (image.float().permute(0, 3, 1, 2) / 255.0,)


def test_names_types_and_shapes_are_the_manifests(spots: ModuleType, spots_canonical: CanonicalGraph) -> None:
    graph = spots.draft_manifest().graphs["main"]
    exported = spots_canonical.exported
    assert [value.name for value in exported.graph.input] == ["image"]
    assert [value.name for value in exported.graph.output] == [
        spec.name for spec in (*graph.outputs, *graph.probes)
    ]
    kinds = [value.type.tensor_type.elem_type for value in exported.graph.output]
    assert kinds[2] == onnx.TensorProto.INT32
    assert not exported.functions
    assert {node.domain for node in exported.graph.node} <= {"", "ai.onnx"}


def test_torch_and_onnx_agree(
    spots: ModuleType, spots_canonical: CanonicalGraph, spot_samples: Samples
) -> None:
    graph = spots.draft_manifest().graphs["main"]
    reference = TorchRunner(spots.SpotFinder().eval(), graph).run(spot_samples[0])
    values = run_graph(spots_canonical.exported, spot_samples)[0]
    assert first_difference(values, reference, list(reference), 1e-5) is None


@pytest.mark.slow
def test_same_module_twice_gives_same_bytes(
    spots: ModuleType, spots_canonical: CanonicalGraph, spot_samples: Samples
) -> None:
    again = export_onnx(spots.SpotFinder(), spots.draft_manifest().graphs["main"], spot_samples[:1])
    assert again.SerializeToString(deterministic=True) == spots_canonical.exported.SerializeToString(
        deterministic=True
    )


def test_no_local_path_survives(spots_canonical: CanonicalGraph) -> None:
    data = spots_canonical.exported.SerializeToString()
    for trace in (b'File "', b".py", b"stack_trace", b"pkg.torch", b"/home", b"site-packages"):
        assert trace not in data


def test_nodes_are_named_after_their_layer(spots_canonical: CanonicalGraph) -> None:
    names = [node.name for node in spots_canonical.canonical.graph.node]
    assert len(set(names)) == len(names)
    assert {"network/0/Conv", "network/2/Conv"} <= set(names)


def test_a_nan_weight_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1))
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match="1 of 9 values are NaN") as caught:
        export_onnx(module, PLAIN, [SAMPLE])
    assert caught.value.where == "0.weight"


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (graph_of(("values", DType.FLOAT32, (1, 3, 8, 9))), "declares float32"),
        (graph_of(("values", DType.INT32, (1, 3, 8, 8))), "declares int32"),
        (
            graph_of(("values", DType.FLOAT32, (1, 3, 8, 8)), ("more", DType.FLOAT32, (1,))),
            "returns 1 tensors, the manifest declares 2",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused(graph: Graph, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(Plain(), graph, [SAMPLE])


ONE, TWO, THREE = (torch.full((size,), float(size)) for size in (1, 2, 3))
NAMES = ["one", "two", "three"]


class Output(NamedTuple):
    first: Tensor
    rest: list[Tensor]


@pytest.mark.parametrize(
    ("returned", "order"),
    [
        ((ONE, TWO, THREE), NAMES),
        ([ONE, (TWO, [THREE])], NAMES),
        (Output(ONE, [TWO, THREE]), NAMES),
        ({"three": THREE, "one": ONE, "two": TWO}, ["three", "one", "two"]),
        ({"head": {"two": TWO}, "others": {"one": ONE, "three": THREE}}, ["two", "one", "three"]),
    ],
    ids=["tuple", "nested", "named", "dictionary", "dictionaries"],
)
def test_tensors_by_order_or_by_name(returned: object, order: list[str]) -> None:
    found = named_tensors(returned, NAMES)
    assert list(found) == order
    assert {name: len(tensor) for name, tensor in found.items()} == {"one": 1, "two": 2, "three": 3}


@pytest.mark.parametrize(
    ("returned", "message", "where"),
    [
        ((ONE, TWO, None), "returns NoneType where a tensor belongs", "its result[2]"),
        ({"one": ONE, "two": [TWO, 3.0]}, "returns float where a tensor belongs", "its result['two'][1]"),
        ({"one": ONE, "two": TWO}, "a dictionary of 'one', 'two', the manifest declares", ""),
        ({"one": ONE, "two": TWO, "five": THREE}, "a dictionary of 'one', 'two', 'five'", ""),
        ({"one": ONE, "two": TWO, "three": [THREE]}, "a dictionary of", ""),
        ((ONE, TWO), "returns 2 tensors, the manifest declares 3", "one, two, three"),
        ("text", "returns str where", "its result"),
    ],
)
def test_what_is_no_tensor_of_the_manifest_is_named(returned: object, message: str, where: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)) as caught:
        named_tensors(returned, NAMES)
    assert caught.value.where == where


def test_more_weights_than_a_file_holds_end_in_one_line() -> None:
    class Vast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.empty(1).expand(2**29), requires_grad=False)

    with pytest.raises(ExportError, match=r"take 2\.00 GiB, and an ONNX file ends at 2 GiB"):
        refuse_heavy_weights(Vast(), "main")
    refuse_heavy_weights(nn.Conv2d(3, 3, 1), "main")


def test_a_sample_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ExportError, match="float32"):
        export_onnx(Plain(), PLAIN, [{"image": SAMPLE["image"].astype(np.float32)}])
    with pytest.raises(ExportError, match="no tensor 'image'"):
        export_onnx(Plain(), PLAIN, [{"picture": SAMPLE["image"]}])
    with pytest.raises(ExportError, match="at least one sample"):
        export_onnx(Plain(), PLAIN, [])


def test_nan_output_is_refused() -> None:
    class Broken(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            values = image.float().permute(0, 3, 1, 2)
            return (values / (values - values),)

    with pytest.raises(ExportError, match="holds NaN"):
        export_onnx(Broken(), PLAIN, [SAMPLE])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["running_var", "weight"])
def test_what_a_diverged_training_leaves_is_refused(name: str, value: float) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    with torch.no_grad():
        getattr(module[0], name)[1] = value
    with pytest.raises(ExportError, match="1 of 3 values are NaN or infinite") as caught:
        refuse_broken_weights(module)
    assert caught.value.where == f"0.{name}"


@pytest.mark.slow
def test_infinite_buffers_and_outputs_export() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            return (image.float().permute(0, 3, 1, 2) / 255.0 + self.mask,)

    model = export_onnx(Masked(), PLAIN, [SAMPLE])
    (values,) = run_graph(model, [SAMPLE])
    assert np.isneginf(values["values"]).sum() == 3 * 28
    module = Masked()
    module.mask[0, 0] = float("nan")
    with pytest.raises(ExportError, match="1 of 64 values are NaN"):
        refuse_broken_weights(module)


@pytest.mark.slow
def test_data_dependent_control_flow_is_one_error() -> None:
    class Branching(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            values = image.float().permute(0, 3, 1, 2)
            return (values if values.sum().item() > 5.0 else -values,)

    with pytest.raises(ExportError, match=r"torch\.onnx cannot export") as caught:
        export_onnx(Branching(), PLAIN, [SAMPLE])
    assert len(caught.value.what) < 400
    file, _, source = caught.value.where.partition(":")
    assert file == __file__
    assert source.endswith(": return (values if values.sum().item() > 5.0 else -values,)")


@pytest.mark.slow
def test_an_operator_without_a_form_names_its_line() -> None:
    class Spectral(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            values = image.float().permute(0, 3, 1, 2)
            return (torch.special.bessel_j0(values),)

    with pytest.raises(ExportError, match=r"bessel_j0") as caught:
        export_onnx(Spectral(), PLAIN, [SAMPLE])
    assert len(caught.value.what) < 400
    assert caught.value.where.endswith(": return (torch.special.bessel_j0(values),)")


def test_a_tool_that_cannot_be_imported_is_not_the_construct() -> None:
    try:
        from onnx import no_such_name  # type: ignore[attr-defined]  # noqa: F401
    except ImportError as error:
        error.__traceback__ = None  # a tool's own file, not this one
        failure = RuntimeError("export failed")
        failure.__cause__ = error
    found = untranslatable(failure)
    assert found.what.startswith("a tool of the export cannot be imported: cannot import name")
    assert (found.where, "versions" in found.hint) == ("onnx", True)


@pytest.mark.slow
def test_numbers_that_differ_name_the_first_tensor() -> None:
    """A module whose answer depends on being traced: the comparison must catch it."""

    class Unsteady(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            values = image.float().permute(0, 3, 1, 2) / 255.0
            return (values, values * (2.0 if torch.compiler.is_compiling() else 1.0))

    graph = msgspec.structs.replace(
        graph_of(("same", DType.FLOAT32, (1, 3, 8, 8)), ("unsteady", DType.FLOAT32, (1, 3, 8, 8)))
    )
    with pytest.raises(ExportError, match="relative error 1 exceeds") as caught:
        export_onnx(Unsteady(), graph, [SAMPLE])
    assert caught.value.where == "unsteady"


@pytest.mark.slow
def test_one_tensor_as_output_and_probe_twice() -> None:
    """Returning one tensor under two names must not lose a name."""

    class Twice(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            values = image.float().permute(0, 3, 1, 2)
            return values, values

    graph = graph_of(("first", DType.FLOAT32, (1, 3, 8, 8)), ("second", DType.FLOAT32, (1, 3, 8, 8)))
    model = export_onnx(Twice(), graph, [SAMPLE])
    values = run_graph(model, [SAMPLE])[0]
    np.testing.assert_array_equal(values["first"], values["second"])
