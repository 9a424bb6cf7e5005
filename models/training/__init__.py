"""Batches, and the loop that can be killed and goes on."""
