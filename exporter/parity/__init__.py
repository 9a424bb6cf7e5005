"""Parity: every stage of a bundle's way against the one before it and against torch, at three levels.

`edgewise parity BUNDLE --dataset D` calls `parity`; tests call `compare`, which writes nothing and raises
nothing on a broken budget. `docs/parity.md` states the rules.
"""

from __future__ import annotations

from edgewise.exporter.parity.command import parity as parity
from edgewise.exporter.parity.compare import Compared as Compared
from edgewise.exporter.parity.compare import compare as compare
from edgewise.exporter.parity.report import Against as Against
from edgewise.exporter.parity.report import ParityReport as ParityReport
from edgewise.exporter.parity.report import Status as Status
from edgewise.exporter.parity.request import ParityRequest as ParityRequest
from edgewise.runtime.compare.checks import Level as Level
