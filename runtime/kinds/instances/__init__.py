"""Instances: boxes, scores, classes and masks."""
