"""RetinaNet (Lin et al., 2017, "Focal Loss for Dense Object Detection") as torchvision publishes it."""
