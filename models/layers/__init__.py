"""Layers that several models share: backbones, feature pyramids, box arithmetic, suppression, deformable
convolution, anchors, RoIAlign; on top of them the stages of two-stage detectors (`two_stage`)."""
