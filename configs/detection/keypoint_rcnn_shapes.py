"""Keypoint R-CNN over tcformer_nano on drawn shapes, on a CPU.

python examples/detection.py configs/detection/keypoint_rcnn_shapes.py
"""

cfg = dict(
    detector="keypoint_rcnn",
    backbone="tcformer_nano",
    out_channels=64,
    num_outs=4,
    num_heads=2,
    mlp_ratio=2.0,
    reduction="cluster",
    anchor_scale=4.0,
    proposals=100,
    rois=32,
    head_layers=1,
    detections=10,
    min_size=64,
    max_size=64,
    batch_size=4,
    num_workers=0,
    epochs=2,
    lr=5e-4,
    lr_drops=(),
    warmup_steps=20,
    device="cpu",
)
