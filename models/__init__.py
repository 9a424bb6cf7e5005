"""Training definitions, losses, targets, checkpoint layouts and toy training. Knows no onnx."""
