"""Inference engines behind one protocol (`base.Engine`)."""
