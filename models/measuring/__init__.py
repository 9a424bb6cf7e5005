"""Datasets and metrics by task, and the evaluation of models."""
