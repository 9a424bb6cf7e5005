"""Boxes: scores and classes without masks."""
