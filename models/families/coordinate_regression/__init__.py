"""Keypoints by coordinate regression: DeepPose, PFLD, MobileNetV2 with a global depthwise convolution."""
