"""YOLACT (Bolya et al., 2019): instance masks as linear combinations of prototypes."""
