"""Whether OpenCV can be imported, and what to do where it cannot: it is compiled for one version of NumPy's
interface, and a system's package knows nothing of the NumPy that pip brings."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr

from edgewise.runtime.system.errors import EdgewiseError

WHEEL = "pip install --upgrade opencv-python-headless"


def require_opencv() -> None:
    """Import OpenCV.

    Raises:
        EdgewiseError: It is not installed, or does not fit what else is.
    """
    said = io.StringIO()
    try:
        # NumPy prints a page with a traceback of its own where an extension was compiled for another version.
        with redirect_stderr(said):
            import cv2  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError as error:
        raise EdgewiseError(f"OpenCV is not installed (no module {error.name})", hint=WHEEL) from None
    except Exception as error:
        # The binding fails by an ImportError, an AttributeError or a SystemError, by its version.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "numpy" in (str(error) + said.getvalue()).lower():
            import numpy as np

            raise EdgewiseError(
                f"this OpenCV was compiled for another NumPy than the installed {np.__version__}: {first}",
                hint=f"pip install 'numpy<2' keeps it, as for GStreamer; {WHEEL} brings one that fits",
            ) from None
        raise EdgewiseError(f"OpenCV cannot be imported: {first}", hint=WHEEL) from None
    sys.stderr.write(said.getvalue())
