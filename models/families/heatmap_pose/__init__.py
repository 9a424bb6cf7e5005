"""Heatmaps of a crop: SimpleBaseline, HRNet and DARK (Xiao et al., 2018; Sun et al., Zhang et al., 2019)."""
