"""CenterNet (Zhou et al., 2019, "Objects as Points"): things are peaks of heatmaps of their centres."""
