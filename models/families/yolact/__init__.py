"""YOLACT (Bolya et al., ICCV 2019)."""
