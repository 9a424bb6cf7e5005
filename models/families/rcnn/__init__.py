"""Faster R-CNN and Mask R-CNN on a feature pyramid, in torchvision's and detectron2's conventions."""
