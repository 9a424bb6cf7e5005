"""A camera on the network without a camera: frames over http, as many a connection as a test says."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

SIZE = (64, 96)
STEP = 4
"""Grey values between two frames, by which a test tells which frame it got."""


def grey(index: int) -> np.ndarray:
    return np.full((*SIZE, 3), index * STEP, np.uint8)


def index_of(image: np.ndarray) -> int:
    return round(float(image.mean()) / STEP)


class _Camera(BaseHTTPRequestHandler):
    """Motion JPEG: parts of a document that has no length. HEAD is refused, as many cameras do."""

    def __init__(self, *arguments: object, connections: list[int], sent: list[int]) -> None:
        self._connections, self._sent = connections, sent
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if not self._connections:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(self._connections.pop(0)):
            data = cv2.imencode(".jpg", grey(self._sent[0]))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            self._sent[0] += 1

    def log_message(self, *arguments: object) -> None:
        """Quietly."""


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Quietly."""


@contextmanager
def _serve(handler: object) -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def camera(connections: Sequence[int]) -> Generator[str]:
    """The address of a stream: each connection gives so many frames at once and ends; later ones are refused.

    Frames are grey and numbered on over the connections (`index_of`), at most 63 of them.
    """
    with _serve(partial(_Camera, connections=list(connections), sent=[0])) as address:
        yield f"{address}/stream"


@contextmanager
def files(folder: Path) -> Generator[str]:
    """The address of a folder of files."""
    with _serve(partial(_Files, directory=str(folder))) as address:
        yield address
