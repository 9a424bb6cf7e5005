"""Surfaces of people: which part of the body a pixel shows, and where on its chart."""
