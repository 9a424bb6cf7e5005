"""Stacked Hourglass: a person's keypoints as heatmaps, refined stack by stack (Newell et al., ECCV 2016)."""
