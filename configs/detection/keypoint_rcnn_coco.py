"""Keypoint R-CNN on the persons of COCO 2017, on 8 GPUs with one picture each. Not run by us.

    torchrun --nproc-per-node 8 examples/detection.py configs/detection/keypoint_rcnn_coco.py \\
        --data-path COCO --weights IMAGENET_WEIGHTS --output-dir work_dirs/keypoint_rcnn

The authors had no such recipe: schedule and neck are those of their Mask R-CNN.
"""

cfg = dict(
    detector="keypoint_rcnn",
    backbone="tcformerv2_base",
    out_channels=256,
    num_heads=4,
    mlp_ratio=4.0,
    reduction="cluster_norm",
    num_outs=5,
    start_level=0,
    extra="on_input",
    anchor_scale=8.0,
    min_size=800,
    max_size=1333,
    flip=0.5,
    batch_size=1,
    epochs=12,
    lr_drops=(8, 11),
    warmup_steps=500,
    warmup_factor=0.001,
    weight_decay=1e-4,
    lr=2e-4 / 1.4,
)
