"""RetinaFace (Deng et al., 2020) as its PyTorch code publishes it: faces with five landmarks."""
