"""The stages of two-stage detectors: proposals (Ren et al., 2015), boxes of regions, masks and keypoints of
regions (He et al., 2017).

A stage owns what belongs together: the module with its weights, the loss that trains it, and the decode of
fixed shape that a graph exports. `forward` and `loss` are differentiable and see batches; `BoxStage.detect`,
`MaskStage.masks` and `KeypointStage.heatmaps` are made of exportable operators and see one image;
`ProposalStage.propose` serves both.

What differs between published code bases (corner convention, rows of the background, reading of the pyramid,
divisors of the losses) is a field of the stage's config without a default: each family states its own.
"""
