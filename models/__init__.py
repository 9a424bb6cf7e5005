"""Training definitions with their data, tasks, metrics, checkpoints and training. Knows no onnx."""
