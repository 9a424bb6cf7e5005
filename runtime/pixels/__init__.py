"""Geometry, masks, their encoding and resampling, maps of segment ids: arithmetic on pixels."""
