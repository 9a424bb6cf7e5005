"""Keypoints in crops."""
