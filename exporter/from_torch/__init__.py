"""From a deploy module to a simplified ONNX graph."""
