"""Keypoint R-CNN over tcformer_nano on drawn shapes, on a CPU.

    tcformer train configs/detection/keypoint_rcnn_shapes.py

What it reaches and in what time stands in docs/dense.md.
"""

cfg = dict(
    task="detection",
    detector="keypoint_rcnn",
    model="tcformer_nano",
    data_set="shapes",
    num_shapes=240,
    neck_channels=64,
    neck_heads=2,
    neck_mlp_ratio=2.0,
    neck_reduction="cluster",
    num_outs=4,
    anchor_scale=4.0,
    proposals=100,
    rois=32,
    head_layers=1,
    detections=10,
    min_size=64,
    max_size=64,
    drop_path=0.0,
    batch_size=4,
    epochs=2,
    sched="step",
    decay_epochs=100,
    lr=6.4e-2,
    warmup_epochs=0,
    warmup_steps=20,
    weight_decay=1e-4,
    decay_all=True,
    save_every=0,
    num_workers=0,
    device="cpu",
    output_dir="work_dirs/keypoint_rcnn_shapes",
)
