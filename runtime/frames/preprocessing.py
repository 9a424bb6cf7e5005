"""From a frame to the graph's input: resize, pad, crop, colour order; never mean or scale.

The graph takes uint8 and normalises inside, so what happens here is one OpenCV call on bytes. Each function
returns the geometry that it really applied, rounded sizes and padding included.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewise.runtime.contract.preprocessing import (
    AffineCrop,
    AsIs,
    CentredFrame,
    ColourOrder,
    CropCorners,
    Interpolation,
    Letterbox,
    PadSide,
    PadValue,
    PixelRule,
    Preprocess,
    ShortestEdge,
    SideRounding,
    SquareCrop,
    Stretch,
)
from edgewise.runtime.frames.square_crop import square_geometry, square_window
from edgewise.runtime.pixels.colours import Frame
from edgewise.runtime.pixels.geometry import Geometry, Size, scaling
from edgewise.runtime.pixels.warp import warp
from edgewise.runtime.system.errors import ManifestError, SourceError

Box = tuple[float, float, float, float]

# Nearest is not here: OpenCV's is half a pixel off, and its exact one takes other pixels in every release.
_RESIZE = {
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.CUBIC: cv2.INTER_CUBIC,
    Interpolation.AREA: cv2.INTER_AREA,
}
_WARP = {
    Interpolation.NEAREST: cv2.INTER_NEAREST,
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.CUBIC: cv2.INTER_CUBIC,
}


def preprocess(
    spec: Preprocess, frame: Frame, *, box: Box | None = None, out: Frame | None = None
) -> tuple[Frame, Geometry]:
    """Make the graph's input from one frame.

    Args:
        spec: The manifest's preprocessing.
        frame: uint8 [H, W, 3], BGR.
        box: (x1, y1, x2, y2) in continuous source pixels; only for crops, which need it.
        out: uint8 [1, h, w, 3], C-contiguous; reused instead of a new array.

    Returns:
        uint8 [1, h, w, 3] in the colour order of `spec` (it is `out` where that was given), and the geometry.

    Raises:
        SourceError: The frame is not a non-empty uint8 [H, W, 3] array, does not fit the preprocessing, or
            the box is missing or empty.
        ManifestError: An interpolation that the preprocessing cannot be done with.
    """
    _check_frame(frame)
    height, width = spec.size
    tensor = _output(out, (1, height, width, 3))
    canvas = tensor[0]
    if isinstance(spec, Stretch):
        geometry = _resize_into(spec, frame, canvas, (0, 0))
    elif isinstance(spec, Letterbox):
        geometry = _pad(spec, frame, canvas, letterbox_size(frame.shape[:2], spec.size))
    elif isinstance(spec, ShortestEdge):
        inner = shortest_edge_size(frame.shape[:2], spec)
        geometry = _pad(spec, frame, canvas, inner)
    elif isinstance(spec, CentredFrame):
        geometry = _centre(spec, frame, canvas)
    elif isinstance(spec, AffineCrop):
        geometry = _crop(spec, frame, canvas, _required(box))
    elif isinstance(spec, SquareCrop):
        geometry = _cut_square(spec, frame, canvas, _required(box))
    else:
        geometry = _as_is(spec, frame, canvas)
    return tensor, geometry


def letterbox_size(source: Size, target: Size) -> Size:
    """(height, width) of the frame scaled by one factor to fit inside `target`, each side rounded."""
    factor = min(target[0] / source[0], target[1] / source[1])
    return (
        min(target[0], _round(source[0] * factor)),
        min(target[1], _round(source[1] * factor)),
    )


def shortest_edge_size(source: Size, spec: ShortestEdge) -> Size:
    """(height, width) with the shorter side at `shortest`, unless the longer would exceed `longest`."""
    sides = [(spec.shortest, min(source)), (spec.longest, max(source))]
    if spec.shrink_to_fit:
        sides += zip(spec.size, source, strict=True)
    factor = min(target / side for target, side in sides)
    if spec.rounding is SideRounding.NEAREST:
        return _round(source[0] * factor), _round(source[1] * factor)
    return max(1, math.floor(source[0] * factor)), max(1, math.floor(source[1] * factor))


def centred_geometry(spec: CentredFrame, source_size: Size) -> Geometry:
    """Where a frame of (height, width) lies.

    Raises:
        SourceError: It is to keep its size and does not fit.
    """
    (height, width), (canvas_h, canvas_w) = source_size, spec.size
    if not spec.keep_size:
        scale = min(canvas_h / height, canvas_w / width)
        offsets = (canvas_w - scale * width) / 2, (canvas_h - scale * height) / 2
        return scaling(source_size, spec.size, (scale, scale), offsets)
    if height > canvas_h or width > canvas_w:
        raise SourceError(
            f"a {height} x {width} frame does not fit into the graph's {canvas_h} x {canvas_w}, and this "
            "bundle keeps the size of frames",
            hint="export the bundle with a size for this format, or one that scales frames",
        )
    offsets = float(canvas_w // 2 - width // 2), float(canvas_h // 2 - height // 2)
    return scaling(source_size, spec.size, (1.0, 1.0), offsets)


def _round(length: float) -> int:
    return max(1, math.floor(length + 0.5))


def _check_frame(frame: Frame) -> None:
    if not isinstance(frame, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SourceError(
            f"a frame must be a numpy array, not {type(frame).__name__}",
            hint="cv2.imread gives None for a file that is missing or no image: check the path",
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise SourceError(
            f"a frame must be uint8 [height, width, 3] in BGR, not {frame.dtype} {list(frame.shape)}",
            hint="read it with cv2.imread(path, cv2.IMREAD_COLOR), or convert with cv2.cvtColor",
        )
    if frame.size == 0:
        raise SourceError(f"the frame is empty: {frame.shape[0]} x {frame.shape[1]} pixels")


def _output(out: Frame | None, shape: tuple[int, int, int, int]) -> Frame:
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise SourceError(
            f"the buffer for the network input is {out.dtype} {list(out.shape)}; it must be contiguous "
            f"uint8 {list(shape)}",
            hint="let preprocess make the first one, and pass that back as `out`",
        )
    return out


def _pad(spec: Letterbox | ShortestEdge, frame: Frame, canvas: Frame, inner: Size) -> Geometry:
    spare_h, spare_w = spec.size[0] - inner[0], spec.size[1] - inner[1]
    if spare_h < 0 or spare_w < 0:
        raise SourceError(
            f"a {frame.shape[0]} x {frame.shape[1]} frame becomes {inner[0]} x {inner[1]} pixels, more than "
            f"the graph's {spec.size[0]} x {spec.size[1]}",
            hint="turn the frames, or export the bundle with a size for this format",
        )
    both = spec.pad_side is PadSide.BOTH
    top, left = (spare_h // 2, spare_w // 2) if both else (0, 0)
    bottom, right = top + inner[0], left + inner[1]
    # Whole lines of bytes are copied about ten times faster than pixels of three.
    lines = canvas.reshape(len(canvas), -1)
    line = np.tile(np.array(spec.pad_value, np.uint8), canvas.shape[1])
    lines[:top] = lines[bottom:] = line
    lines[top:bottom, : 3 * left] = line[: 3 * left]
    lines[top:bottom, 3 * right :] = line[3 * right :]
    return _resize_into(spec, frame, canvas[top:bottom, left:right], (top, left))


def _resize_into(
    spec: Stretch | Letterbox | ShortestEdge, frame: Frame, inner: Frame, corner: Size
) -> Geometry:
    """Resize to the whole of `inner`, a part of the input whose first pixel is `corner`."""
    (height, width), (inner_h, inner_w) = frame.shape[:2], inner.shape[:2]
    if spec.pixel_rule is PixelRule.ALIGN_CORNERS:
        resized: NDArray[Any] = _resize_aligned(frame, (inner_h, inner_w), spec.interpolation)
    elif spec.interpolation is Interpolation.NEAREST:
        resized = frame[_under_centres(height, inner_h)][:, _under_centres(width, inner_w)]
    else:
        resized = cv2.resize(frame, (inner_w, inner_h), dst=inner, interpolation=_RESIZE[spec.interpolation])
    _store(resized, inner, spec.colour)
    scale_x, offset_x = _axis_map(width, inner_w, spec.pixel_rule)
    scale_y, offset_y = _axis_map(height, inner_h, spec.pixel_rule)
    top, left = corner
    return scaling((height, width), spec.size, (scale_x, scale_y), (offset_x + left, offset_y + top))


def _under_centres(source: int, target: int) -> NDArray[np.int64]:
    """For each pixel of an axis the source pixel that its centre lies in."""
    return (2 * np.arange(target, dtype=np.int64) + 1) * source // (2 * target)


def _axis_map(source: int, target: int, rule: PixelRule) -> tuple[float, float]:
    """(scale, offset) of target = scale * source + offset in continuous pixels.

    Aligned corners put the centres of first and last pixels on each other; an axis with a single pixel on
    either side has no second pixel to align and follows the half-pixel rule.
    """
    if rule is PixelRule.HALF_PIXEL or source == 1 or target == 1:
        return target / source, 0.0
    scale = (target - 1) / (source - 1)
    return scale, 0.5 - 0.5 * scale


def _resize_aligned(frame: Frame, size: Size, interpolation: Interpolation) -> Frame:
    # `warp` could do this, but it rounds its sample positions to 1/32 pixel.
    rows = _aligned_positions(frame.shape[0], size[0])
    columns = _aligned_positions(frame.shape[1], size[1])
    if interpolation is Interpolation.NEAREST:
        return frame[np.floor(rows + 0.5).astype(np.intp)][:, np.floor(columns + 0.5).astype(np.intp)]
    if interpolation is not Interpolation.LINEAR:
        raise ManifestError(
            f"{interpolation.value} interpolation with aligned corners is not available",
            hint="use linear or nearest, or the half-pixel rule",
        )
    tall = _lerp(frame.astype(np.float32), rows)
    return np.rint(_lerp(tall.swapaxes(0, 1), columns).swapaxes(0, 1)).astype(np.uint8)


def _aligned_positions(source: int, target: int) -> NDArray[np.floating]:
    scale, offset = _axis_map(source, target, PixelRule.ALIGN_CORNERS)
    positions = (np.arange(target) + 0.5 - offset) / scale - 0.5
    return np.clip(positions, 0, source - 1)


def _lerp(values: NDArray[np.floating], positions: NDArray[np.floating]) -> NDArray[np.floating]:
    """Values at fractional `positions` of the first axis."""
    before = np.floor(positions).astype(np.intp)
    after = np.minimum(before + 1, len(values) - 1)
    weight = (positions - before).astype(np.float32)[:, None, None]
    return values[before] + weight * (values[after] - values[before])


def crop_geometry(spec: AffineCrop | SquareCrop, source_size: Size, box: Box) -> Geometry:
    """Where the crop around a box lies in a frame of (height, width).

    Raises:
        SourceError: The box is empty.
    """
    if isinstance(spec, SquareCrop):
        return square_geometry(spec, source_size, box)
    (x, y), (crop_w, crop_h) = _crop_extent(spec, source_size, box)
    height, width = spec.size
    if spec.corners is CropCorners.PIXEL_DISTANCES:
        scale_x, offset_x = _crop_axis(x, crop_w, width, PixelRule.ALIGN_CORNERS)
        scale_y, offset_y = scale_x, height / 2 - scale_x * y
    else:
        scale_x, offset_x = _crop_axis(x, crop_w, width, spec.pixel_rule)
        scale_y, offset_y = _crop_axis(y, crop_h, height, spec.pixel_rule)
    if spec.corners is CropCorners.PIXEL_NUMBERS:
        # Pixel number n has its centre at n + 0.5, on either side of the map.
        offset_x, offset_y = offset_x + 0.5 - 0.5 * scale_x, offset_y + 0.5 - 0.5 * scale_y
    return scaling(source_size, spec.size, (scale_x, scale_y), (offset_x, offset_y))


def crop_source(spec: AffineCrop | SquareCrop, frame: Frame, box: Box) -> tuple[Frame, Geometry]:
    """What the crop around a box is read from, and where: `crop_geometry`, unless corners are whole pixels.

    What is left of a difference to the published code with these corners: values are bytes, not floats; the
    outermost half pixel of an enlarged crop blends with what lies outside of it.

    Returns:
        The frame, or the shrunk frame, and the geometry from that to the network's input.

    Raises:
        SourceError: The box is empty.
    """
    source_size = frame.shape[0], frame.shape[1]
    moved = (CropCorners.WHOLE_PIXELS, CropCorners.WHOLE_PIXELS_FROM_ONE)
    if isinstance(spec, SquareCrop) or spec.corners not in moved:
        return frame, crop_geometry(spec, source_size, box)
    centre, extent = (np.array(pair) for pair in _crop_extent(spec, source_size, box))
    extent = 200 * (extent / 200)  # their unit of scale
    first = 0
    if spec.corners is CropCorners.WHOLE_PIXELS_FROM_ONE:
        first, factor = 1, float(extent[1] / spec.size[0])
        if factor >= 2:
            source_size = max(1, int(source_size[0] / factor)), max(1, int(source_size[1] / factor))
            frame = np.asarray(cv2.resize(frame, source_size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
            centre, extent = centre / factor, extent / factor
    size = np.array(spec.size[::-1], np.float64)
    # The published code's way to the corners, step by step: its rounding decides by whole pixels.
    forward = np.eye(3)
    forward[[0, 1], [0, 1]] = size / extent
    forward[:2, 2] = size * (-centre / extent + 0.5)
    back = np.linalg.inv(forward)
    low, high = (np.trunc((back @ [*(corner - first), 1.0])[:2]) + first for corner in (np.zeros(2), size))
    scale = size / np.maximum(high - low, 1.0)
    (scale_x, scale_y), (offset_x, offset_y) = scale.tolist(), (-scale * low).tolist()
    return frame, scaling(source_size, spec.size, (scale_x, scale_y), (offset_x, offset_y))


def _crop_extent(
    spec: AffineCrop, source_size: Size, box: Box
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre (x, y) and sides (width, height) of the crop around a box, in source pixels."""
    x1, y1, x2, y2 = box
    if not (math.isfinite(x1 + y1 + x2 + y2) and x2 > x1 and y2 > y1):
        raise SourceError(f"the box {box} to crop around is empty")
    if spec.clip_box:
        x1, y1, x2, y2 = _clipped(box, source_size, 1 if spec.corners is CropCorners.PIXEL_NUMBERS else 0)
    height, width = spec.size
    crop_w = max(x2 - x1, (y2 - y1) * width / height) * spec.padding
    return ((x1 + x2) / 2, (y1 + y2) / 2), (crop_w, crop_w * height / width)


def _clipped(box: Box, source_size: Size, lost: int) -> Box:
    """The box inside a (height, width) frame, less so many pixels at its end; itself where none are left."""
    x1, y1, x2, y2 = box
    height, width = source_size
    left, top, right, bottom = max(0.0, x1), max(0.0, y1), min(width, x2) - lost, min(height, y2) - lost
    return (left, top, right, bottom) if right > left and bottom > top else box


def warp_into(
    spec: AffineCrop | SquareCrop | CentredFrame, frame: Frame, canvas: Frame, geometry: Geometry
) -> None:
    """Fill `canvas` (uint8 [h, w, 3]) with what a crop's geometry, turned or not, shows of the frame.

    Raises:
        ManifestError: An interpolation that a warp cannot be done with.
        SourceError: The crop spans more pixels than can be sampled from.
    """
    if spec.interpolation not in _WARP:
        raise ManifestError(f"a warp cannot use {spec.interpolation.value} interpolation")
    border = _as_bgr(spec.pad_value, spec.colour)
    warped = warp(frame, geometry.matrix, spec.size, _WARP[spec.interpolation], border, canvas)
    _store(warped, canvas, spec.colour)


def _centre(spec: CentredFrame, frame: Frame, canvas: Frame) -> Geometry:
    geometry = centred_geometry(spec, (frame.shape[0], frame.shape[1]))
    # The published map takes pixel numbers to each other, and those are half less than where centres lie.
    sampling = geometry.matrix.copy()
    sampling[:, 2] += 0.5 - 0.5 * sampling[0, 0]
    warp_into(spec, frame, canvas, Geometry(geometry.source_size, geometry.network_size, sampling))
    return geometry


def _required(box: Box | None) -> Box:
    if box is None:
        raise SourceError(
            "this bundle looks at a crop around a box, and no box was given",
            hint="pass box=(x1, y1, x2, y2) in source pixels",
        )
    return box


def _crop(spec: AffineCrop, frame: Frame, canvas: Frame, box: Box) -> Geometry:
    read, sampling = crop_source(spec, frame, box)
    warp_into(spec, read, canvas, sampling)
    return crop_geometry(spec, (frame.shape[0], frame.shape[1]), box)


def _cut_square(spec: SquareCrop, frame: Frame, canvas: Frame, box: Box) -> Geometry:
    """Whole pixels of the frame, padded where the square leaves it, resized at once."""
    source_size = frame.shape[0], frame.shape[1]
    left, top, right, bottom = square_window(spec, source_size, box)
    inside = frame[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.shape[:2] != (bottom - top, right - left):
        cut = np.empty((bottom - top, right - left, 3), np.uint8)
        cut[:] = _as_bgr(spec.pad_value, spec.colour)
        row, column = max(-top, 0), max(-left, 0)
        cut[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
        inside = cut
    resized = cv2.resize(inside, spec.size[::-1], interpolation=cv2.INTER_LINEAR)
    _store(resized, canvas, spec.colour)
    return square_geometry(spec, source_size, box)


def _crop_axis(centre: float, extent: float, target: int, rule: PixelRule) -> tuple[float, float]:
    """As `_axis_map`, for the stretch of `extent` source pixels around `centre`."""
    aligned = rule is PixelRule.ALIGN_CORNERS and extent > 1 and target > 1
    scale = (target - 1) / (extent - 1) if aligned else target / extent
    return scale, target / 2 - scale * centre


def _as_bgr(value: PadValue, colour: ColourOrder) -> tuple[int, int, int]:
    return (value[2], value[1], value[0]) if colour is ColourOrder.RGB else value


def _as_is(spec: AsIs, frame: Frame, canvas: Frame) -> Geometry:
    if frame.shape[:2] != spec.size:
        raise SourceError(
            f"the frame is {frame.shape[0]} x {frame.shape[1]} pixels; this bundle takes frames of exactly "
            f"{spec.size[0]} x {spec.size[1]}",
            hint="resize the frames before they are given",
        )
    _store(frame, canvas, spec.colour)
    return scaling(frame.shape[:2], spec.size, (1.0, 1.0), (0.0, 0.0))


def _store(pixels: NDArray[Any], canvas: Frame, colour: ColourOrder) -> None:
    """Put BGR `pixels`, which may already lie in `canvas`, there in the graph's colour order."""
    if colour is ColourOrder.RGB:
        canvas[...] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    elif not np.may_share_memory(pixels, canvas):
        canvas[...] = pixels
