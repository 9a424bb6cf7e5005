"""Preprocessing gives the same integers under every OpenCV: hashes that any release must arrive at.

The picture is made without OpenCV. Releases 4.6, 4.8, 4.13 and 5.0 were seen to agree. Cubic is left
out: OpenCV asks Intel's library for it where there is one, and rounds otherwise without.
"""

import hashlib

import numpy as np
import pytest

from edgewise.runtime.contract.preprocessing import AffineCrop, Interpolation, Letterbox, PixelRule, Stretch
from edgewise.runtime.frames.preprocessing import preprocess, warp_into
from edgewise.runtime.pixels.geometry import Geometry

BOXES = (
    (31.7, 12.3, 199.2, 240.9),
    (-80.0, -33.5, 90.25, 60.0),
    (5.0, 5.0, 11.0, 12.0),
    (-1e9, -5.0, 1e9, 5.0),
)
NEAREST, AREA = Interpolation.NEAREST, Interpolation.AREA
ALIGNED = PixelRule.ALIGN_CORNERS
CASES = {
    "crop": (AffineCrop(size=(64, 48)), BOXES),
    "aligned crop": (AffineCrop(size=(64, 48), pixel_rule=ALIGNED, pad_value=(9, 80, 200)), BOXES),
    "nearest crop": (AffineCrop(size=(64, 48), interpolation=NEAREST), BOXES),
    "stretch": (Stretch(size=(55, 77)), (None,)),
    "larger": (Stretch(size=(333, 400)), (None,)),
    "nearest": (Stretch(size=(55, 77), interpolation=NEAREST), (None,)),
    "nearest, larger": (Stretch(size=(333, 400), interpolation=NEAREST), (None,)),
    "area": (Stretch(size=(55, 77), interpolation=AREA), (None,)),
    "aligned": (Stretch(size=(55, 77), pixel_rule=ALIGNED), (None,)),
    "letterbox": (Letterbox(size=(96, 128)), (None,)),
}  # fmt: skip


def picture(height: int = 251, width: int = 317) -> np.ndarray:
    """Waves and noise, whole numbers throughout."""
    y, x = np.mgrid[:height, :width]
    channels = (x * x // 7 + y * 3, (x * 5 + y * y // 3), x * 2654435761 + y * 40503 * (x + 1))
    return np.stack([channel // 16 % 256 for channel in channels], axis=-1).astype(np.uint8)


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()[:16]


@pytest.mark.parametrize("name", CASES)
def test_the_same_integers_in_every_release(name):
    spec, boxes = CASES[name]
    seen = digest(np.concatenate([preprocess(spec, picture(), box=box)[0] for box in boxes]))
    assert seen == EXPECTED[name]


def test_a_turned_crop_too():
    turned = np.array([[0.31, 0.12, 3.3], [-0.12, 0.31, 50.7]])
    canvas = np.empty((64, 48, 3), np.uint8)
    warp_into(AffineCrop(size=(64, 48)), picture(), canvas, Geometry((251, 317), (64, 48), turned))
    assert digest(canvas) == EXPECTED["turned crop"]


def test_a_crop_of_a_frame_longer_than_opencv_samples():
    strip = np.zeros((8, 40_000, 3), np.uint8)
    strip[:, 39_000:39_010] = 255
    crop, _ = preprocess(AffineCrop(size=(8, 8), padding=1.0), strip, box=(39_000, 0, 39_008, 8))
    assert (crop == 255).all()


EXPECTED = {
    "crop": "3a2df4fb1ca417a0", "aligned crop": "bd978e310b5fe5fe", "nearest crop": "58fc662be00ce213",
    "stretch": "9c3b6e94cf148f36", "larger": "caefce1df7736c3d", "nearest": "fe878b7ba7135f0e",
    "nearest, larger": "9546254d51711ee8", "area": "17542b7149b6c394",
    "aligned": "8fb3ca676678339c", "letterbox": "58047d6d16597b74", "turned crop": "92cc40642ddbca02",
}  # fmt: skip
