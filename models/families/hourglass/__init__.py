"""Stacked Hourglass (Newell et al., ECCV 2016)."""
