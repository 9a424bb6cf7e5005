"""UPSNet (Xiong et al., CVPR 2019)."""
