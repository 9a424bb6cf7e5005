"""Errors, files that appear whole or not at all, interruption, and what the processor offers."""
