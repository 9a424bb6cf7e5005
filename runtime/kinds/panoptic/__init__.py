"""Panoptic segments: a map of ids and a table."""
