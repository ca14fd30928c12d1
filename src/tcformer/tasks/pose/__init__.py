"""Keypoints of people and faces, by a TCFormer under MTA: top-down, with heat maps."""
