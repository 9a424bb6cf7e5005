"""DensePose (Guler et al., 2018): the surface of every person, on detectron2's R-CNN with charts."""
