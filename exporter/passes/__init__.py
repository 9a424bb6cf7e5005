"""Rewritings of an ONNX graph, one a file."""
