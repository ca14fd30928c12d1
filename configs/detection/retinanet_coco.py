"""RetinaNet on COCO 2017, 12 epochs ("1x"), on 8 GPUs with one picture each. Not run by us.

    torchrun --nproc-per-node 8 examples/detection.py configs/detection/retinanet_coco.py \\
        --data-path COCO --weights IMAGENET_WEIGHTS --output-dir work_dirs/retinanet

The settings are those of the authors' development code of early 2022, not the paper's final ones;
what differs from it is in docs/dense.md.
"""

cfg = dict(
    detector="retinanet",
    backbone="tcformerv2_base",
    out_channels=256,
    num_heads=4,
    mlp_ratio=4.0,
    reduction="cluster_norm",
    num_outs=5,
    start_level=1,
    extra="on_input",
    anchor_scale=4.0,
    min_size=800,
    max_size=1333,
    flip=0.5,
    batch_size=1,
    epochs=12,
    lr_drops=(8, 11),
    warmup_steps=500,
    warmup_factor=0.001,
    weight_decay=1e-4,
    lr=1e-4,
)
