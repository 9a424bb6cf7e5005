"""Engines from lowered graphs: one builder for TensorRT 8.6, 10, 11 and TensorRT-RTX.

Nothing here imports torch, and onnx only where builder flags choose the precision (TensorRT 8.x), because
TensorRT engines are built on the device that runs them.
"""
