"""Rewritings of an ONNX graph, each with its conditions and its numeric check."""

from edgewise.exporter.passes.infrastructure import Condition, Pass, PassResult, PassRunner, expose

__all__ = ["Condition", "Pass", "PassResult", "PassRunner", "expose"]
