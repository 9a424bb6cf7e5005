"""Layers that several models share: backbones, feature pyramids, box arithmetic, suppression."""
