"""Layers that several models share: backbones, feature pyramids, box arithmetic, suppression, deformable
convolution, and the parts of two-stage detectors: anchors, proposals, sampling, RoIAlign."""
