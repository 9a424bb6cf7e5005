"""UPSNet (Xiong et al., 2019): unified panoptic segmentation."""
