"""Object detection: boxes, with masks or keypoints, by torchvision's detectors over a TCFormer."""
