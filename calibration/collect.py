"""One pass of a graph over the calibration set: what does every float tensor hold?

Tensors that may become codes are written into buffers that stay the same for all samples, and counted there
into histograms. Of all other float tensors only the extremes are wanted; reductions inside the graph give
them, and the tensors never leave it. Memory is one forward pass and the buffers, for any number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgewise.calibration.graph import (
    GraphIndex,
    float_activations,
    index_graph,
    load_model,
    static_shape,
    with_node_names,
)
from edgewise.calibration.histogram import MagnitudeHistogram
from edgewise.calibration.observers import DEFAULT_PERCENTILE, choose_amax
from edgewise.calibration.placement import candidate_tensors, carried_sums
from edgewise.calibration.samples import CalibrationSet, preprocess_sha256
from edgewise.calibration.table import CalibrationTable, TensorRange
from edgewise.runtime.contract.manifest import CalibrationMethod
from edgewise.runtime.contract.preprocessing import Preprocess
from edgewise.runtime.system.errors import CalibrationError

Feeds = Iterable[tuple[str, Mapping[str, NDArray[Any]]]]
"""(sample name, input name -> array) of every sample; arrays may be reused between samples."""

_LARGEST = float(np.finfo(np.float32).max)

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


def calibrate(
    model: onnx.ModelProto | Path,
    samples: CalibrationSet,
    preprocess: Preprocess,
    *,
    method: CalibrationMethod = CalibrationMethod.ENTROPY,
    percentile: float = DEFAULT_PERCENTILE,
    feeds: Feeds | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CalibrationTable:
    """Run a graph over a calibration set and choose the range of every tensor.

    Args:
        model: The float32 graph of fixed shapes, with one uint8 input [1, h, w, 3] unless `feeds` are given.
        samples: The images.
        preprocess: The manifest's preprocessing.
        method: How the ranges of tensors that may become codes are chosen.
        percentile: For that method.
        feeds: What the graph is given for the images, where it takes more than one, such as state.
        threads: Of ONNX Runtime and of the counting; all cores where it is None.
        progress: Called after every sample.

    Raises:
        CalibrationError: The graph does not take one image, a shape is not fixed, or an activation is NaN;
            the message names the tensor and the sample.
    """
    plan = _plan(load_model(model), None if method is not CalibrationMethod.MINMAX else ())
    if feeds is None:
        if len(plan.inputs) != 1:
            raise CalibrationError(
                f"the graph has {len(plan.inputs)} inputs: {', '.join(plan.inputs)}",
                hint="give the arrays of every sample as `feeds`",
            )
        name = plan.inputs[0]
        feeds = ((sample, {name: tensor}) for sample, tensor in samples.tensors(preprocess))
    total = len(samples.samples)

    def counted(feeds: Feeds) -> Feeds:
        for number, feed in enumerate(feeds):
            if progress is not None and number:
                progress(min(number, total), total)
            yield feed

    seen = _observe(plan, counted(feeds), threads)
    if progress is not None:
        progress(total, total)
    return CalibrationTable(
        method=method,
        percentile=percentile if method is CalibrationMethod.PERCENTILE else None,
        sample_count=total,
        seed=samples.seed,
        samples_sha256=samples.samples_sha256,
        preprocess_sha256=preprocess_sha256(preprocess),
        tensors=seen.ranges(method, percentile, plan.carried),
    )


@dataclass(frozen=True)
class Extremes:
    """The smallest and largest value of a tensor, which may be infinite."""

    minimum: float
    maximum: float


@dataclass(frozen=True)
class Observations:
    """What `observe` saw: histograms of some tensors, extremes of the others, in graph order."""

    order: tuple[str, ...]
    histograms: Mapping[str, MagnitudeHistogram]
    extremes: Mapping[str, Extremes]

    def ranges(
        self, method: CalibrationMethod, percentile: float, carried: Collection[str] = ()
    ) -> dict[str, TensorRange]:
        """Every tensor's range; `method` chooses where there is a histogram, min-max elsewhere.

        Entropy clips for the sake of the many small values. Of `carried` sums nothing may be clipped again
        and again: their range has the least squared error in its place.
        """
        found: dict[str, TensorRange] = {}
        for tensor in self.order:
            histogram = self.histograms.get(tensor)
            if histogram is not None and histogram.counts.any():
                clips = method is CalibrationMethod.ENTROPY and tensor in carried
                chosen = CalibrationMethod.MSE if clips else method
                found[tensor] = TensorRange(
                    minimum=histogram.minimum,
                    maximum=histogram.maximum,
                    amax=choose_amax(histogram, chosen, percentile),
                    method=chosen,
                    unbounded=histogram.unbounded,
                )
            else:
                seen = self.extremes.get(tensor, Extremes(-math.inf, math.inf))
                low, high = (min(max(x, -_LARGEST), _LARGEST) for x in (seen.minimum, seen.maximum))
                found[tensor] = TensorRange(
                    minimum=low,
                    maximum=high,
                    amax=max(abs(low), abs(high)),
                    method=CalibrationMethod.MINMAX,
                    unbounded=math.isinf(seen.minimum) or math.isinf(seen.maximum),
                )
        return found


def observe(
    model: onnx.ModelProto, feeds: Feeds, *, histograms: Iterable[str], threads: int | None = None
) -> Observations:
    """Run a graph over samples.

    Args:
        model: A float32 graph.
        feeds: The samples; read one at a time.
        histograms: Tensors to count; all others give their extremes.
        threads: As in `calibrate`.

    Raises:
        CalibrationError: No sample, a shape that is not fixed, or a NaN activation.
    """
    return _observe(_plan(model, tuple(histograms)), feeds, threads)


@dataclass
class _Plan:
    """What is needed to run; the model itself is not held, because it may be large."""

    inputs: tuple[str, ...]
    order: tuple[str, ...]
    counted: dict[str, tuple[int, ...]]
    reduced: tuple[str, ...]
    carried: frozenset[str]
    serialised: bytes


def _plan(model: onnx.ModelProto, histograms: Iterable[str] | None) -> _Plan:
    """`histograms` None stands for the candidates of quantisation."""
    index = index_graph(with_node_names(model))
    chosen = frozenset(candidate_tensors(model) if histograms is None else histograms)
    activations = float_activations(index)
    counted = {tensor: _fixed_shape(index, tensor) for tensor in activations if tensor in chosen}
    reduced = tuple(tensor for tensor in activations if tensor not in chosen)
    observed = _with_observed_outputs(index, tuple(counted), reduced)
    carried = carried_sums(model)
    return _Plan(index.inputs, activations, counted, reduced, carried, observed.SerializeToString())


def _observe(plan: _Plan, feeds: Feeds, threads: int | None) -> Observations:
    runner = _Runner(plan, threads)
    done = 0
    with runner.pool:
        for sample, feed in feeds:
            runner.run(sample, feed)
            done += 1
    if done == 0:
        raise CalibrationError("no calibration sample was given", hint="pass at least one image")
    return Observations(plan.order, runner.histograms, runner.extremes())


def frugal_options(threads: int | None) -> Any:
    """`SessionOptions` of a graph whose tensors are mostly reduced: each is freed before the next one comes.

    Nodes run in the order of the graph, so a reduction must stand right behind what it reads. The layout of
    ONNX Runtime's highest level would move reductions to the end and hold all tensors until then; an arena
    and a memory pattern are faster on later runs and hold half as much again.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


class _Runner:
    """A session whose outputs are buffers that never move."""

    def __init__(self, plan: _Plan, threads: int | None) -> None:
        import onnxruntime as ort

        options = frugal_options(threads)
        # Threads that spin between runs would take the cores from the counting.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(plan.serialised, options, providers=["CPUExecutionProvider"])
        plan.serialised = b""
        self._binding = self._session.io_binding()
        self._buffers = {tensor: np.empty(shape, np.float32) for tensor, shape in plan.counted.items()}
        self._order, self._reduced = plan.order, plan.reduced
        self._statistics = {
            name: np.zeros((), np.float32) for tensor in plan.reduced for name in _statistic_names(tensor)
        }
        for name, buffer in (*self._buffers.items(), *self._statistics.items()):
            self._binding.bind_output(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        self.histograms = {tensor: MagnitudeHistogram() for tensor in plan.counted}
        self._low = dict.fromkeys(plan.reduced, math.inf)
        self._high = dict.fromkeys(plan.reduced, -math.inf)
        self.pool = ThreadPoolExecutor(threads)

    def run(self, sample: str, feed: Mapping[str, NDArray[Any]]) -> None:
        for name, array in feed.items():
            self._binding.bind_cpu_input(name, array)
        self._session.run_with_iobinding(self._binding)
        counted = self.pool.map(MagnitudeHistogram.add, self.histograms.values(), self._buffers.values())
        broken = {tensor for tensor, known in zip(self._buffers, counted, strict=True) if not known}
        for tensor in self._reduced:
            low, high, total = (float(self._statistics[name]) for name in _statistic_names(tensor))
            if math.isnan(total):
                broken.add(tensor)
            self._low[tensor] = min(self._low[tensor], low)
            self._high[tensor] = max(self._high[tensor], high)
        if broken:
            first = next(tensor for tensor in self._order if tensor in broken)
            raise CalibrationError(
                "an activation is NaN",
                where=f"tensor {first}, sample {sample}",
                hint="check the weights and the image; FP32 inference is broken too",
            )

    def extremes(self) -> dict[str, Extremes]:
        return {tensor: Extremes(self._low[tensor], self._high[tensor]) for tensor in self._reduced}


def _statistic_names(tensor: str) -> tuple[str, str, str]:
    return f"{tensor}__minimum", f"{tensor}__maximum", f"{tensor}__sum"


def _with_observed_outputs(
    index: GraphIndex, counted: tuple[str, ...], reduced: tuple[str, ...]
) -> onnx.ModelProto:
    """The graph with the counted tensors and the statistics of the reduced ones as its only outputs.

    The sum of magnitudes is there for NaN, which ONNX Runtime's minimum and maximum pass over; opposite
    infinities do not make it NaN.
    """
    model = onnx.ModelProto()
    model.CopyFrom(index.model)
    graph = model.graph
    del graph.output[:]
    for tensor in counted:
        graph.output.append(index.types[tensor])
    nodes = list(graph.node)
    del graph.node[:]
    wanted = frozenset(reduced)
    for node in nodes:
        graph.node.append(node)
        for tensor in node.output:
            if tensor in wanted:
                graph.node.extend(_statistics_of(tensor))
    for tensor in reduced:
        for name in _statistic_names(tensor):
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    return model


def _statistics_of(tensor: str) -> list[onnx.NodeProto]:
    operators = ("ReduceMin", "ReduceMax", "ReduceL1")
    return [
        helper.make_node(operator, [tensor], [name], name=name, keepdims=0)
        for operator, name in zip(operators, _statistic_names(tensor), strict=True)
    ]


def _fixed_shape(index: GraphIndex, tensor: str) -> tuple[int, ...]:
    shape = static_shape(index, tensor)
    if shape is None:
        raise CalibrationError(
            "the tensor's shape is not fixed", where=tensor, hint="calibrate the graph with fixed shapes"
        )
    return shape
