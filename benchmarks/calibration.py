"""Entropy calibration of YOLACT R50 at 550x550 beside ONNX Runtime's `quantize_static`, in one run.

    python benchmarks/calibration.py [--count 16] [--graph FILE]

Each side is a process of its own, so that its peak of resident memory is its own. Both read the same PNG
files, preprocess them, calibrate by entropy and write the INT8 graph: edgewise the S8 graph for TensorRT and
the U8 graph for ONNX Runtime, ONNX Runtime its Q/DQ graph. ONNX Runtime's side needs about 14 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from published_graph import SIDE, write_graph, write_images

NEEDED_GIB = 15.0


def run_edgewise(graph: Path, images: Path, count: int, output: Path) -> None:
    import onnx

    from edgewise.calibration.collect import calibrate
    from edgewise.calibration.lower_u8 import lower_u8
    from edgewise.calibration.placement import place
    from edgewise.calibration.qdq import quantise_s8
    from edgewise.calibration.samples import CalibrationSet
    from edgewise.calibration.table import encode_table
    from edgewise.runtime.contract.manifest import Target
    from edgewise.runtime.contract.preprocessing import Stretch

    samples = CalibrationSet.from_folder(images, count=count)
    table = calibrate(graph, samples, Stretch(size=(SIDE, SIDE)))
    (output / "table.json").write_bytes(encode_table(table))
    model = onnx.load(str(graph))
    onnx.save(quantise_s8(model, table, place(model)), str(output / "tensorrt.onnx"))
    placed = place(model, target=Target.ONNXRUNTIME)
    onnx.save(lower_u8(quantise_s8(model, table, placed)), str(output / "onnxruntime.onnx"))


def run_onnxruntime(graph: Path, images: Path, count: int, output: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    from edgewise.runtime.contract.preprocessing import Stretch
    from edgewise.runtime.frames.images import read_image
    from edgewise.runtime.frames.preprocessing import preprocess

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._files = iter(sorted(images.iterdir())[:count])

        def get_next(self) -> Any:  # None at the end, which the base's annotation leaves out
            file = next(self._files, None)
            return (
                None
                if file is None
                else {"image": preprocess(Stretch(size=(SIDE, SIDE)), read_image(file))[0]}
            )

    quantize_static(
        str(graph),
        str(output / "quantize_static.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod.Entropy,
    )


SIDES = {"edgewise": run_edgewise, "onnxruntime": run_onnxruntime}


@dataclass(frozen=True)
class Cost:
    """Wall seconds, seconds of processor time of all threads, and peak resident MiB of a process."""

    seconds: float
    processor: float
    peak_mib: float


def measured(side: str, graph: Path, images: Path, count: int) -> Cost:
    """Run one side in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--count", str(count)]
    command += ["--graph", str(graph), "--images", str(images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{side:12s} {count:3d} images  {cost.seconds:8.1f} s  processor {cost.processor:8.1f} s  "
        f"{cost.peak_mib:8.0f} MiB",
        flush=True,
    )
    return cost


def report_side(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        SIDES[arguments.side](arguments.graph, arguments.images, arguments.count, Path(folder))
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(asdict(Cost(seconds, time.process_time(), peak))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--graph", type=Path, help="an FP32 graph of this model, exported before")
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        report_side(arguments)
        return
    import psutil

    free = psutil.virtual_memory().available / 2**30
    if free < NEEDED_GIB:
        raise SystemExit(
            f"ONNX Runtime's side needs {NEEDED_GIB} GiB of memory; {free:.1f} GiB are available"
        )
    count, larger = arguments.count, 4 * arguments.count
    with tempfile.TemporaryDirectory() as folder:
        graph = arguments.graph or write_graph(Path(folder) / "graph.onnx")
        images = write_images(Path(folder) / "images", larger)
        ours = measured("edgewise", graph, images, count)
        theirs = measured("onnxruntime", graph, images, count)
        ours_larger = measured("edgewise", graph, images, larger)
    time_ratio, processor_ratio = theirs.seconds / ours.seconds, theirs.processor / ours.processor
    print(f"time        1/{time_ratio:.1f} of quantize_static's   target <= 1/3")
    print(f"processor   1/{processor_ratio:.1f} of quantize_static's")
    print(f"peak memory 1/{theirs.peak_mib / ours.peak_mib:.1f} of quantize_static's   target <= 1/8")
    growth = ours_larger.peak_mib / ours.peak_mib
    print(f"peak at {larger} images / peak at {count}: {growth:.3f}   target <= 1.05")


if __name__ == "__main__":
    main()
