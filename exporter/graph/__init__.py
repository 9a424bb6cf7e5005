"""ONNX graphs: running, editing, conditions, passes and their checks."""
