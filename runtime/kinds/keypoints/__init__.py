"""Keypoints of people, hands or animals: in crops, or in boxes that the network finds."""
