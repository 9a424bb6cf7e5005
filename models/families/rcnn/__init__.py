"""Faster, Mask and Keypoint R-CNN on a feature pyramid, in torchvision's and detectron2's conventions."""
