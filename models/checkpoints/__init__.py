"""Checkpoints of our own and of upstream repositories."""
