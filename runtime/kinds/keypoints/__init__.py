"""Keypoints of people, hands or animals in crops."""
