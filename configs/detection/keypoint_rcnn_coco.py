"""Keypoint R-CNN on COCO 2017, 12 epochs ("1x"), on 8 GPUs with one image each. Not run by us.

    dist_train.sh configs/detection/keypoint_rcnn_coco.py 8 \\
        --data-path COCO --finetune IMAGENET_WEIGHTS

The settings are ours, after those of mask_rcnn_coco.py.
AdamW at 2e-4 / 1.4 for 8 images is --lr 9.1e-3 for 512.
"""

cfg = dict(
    task="detection",
    detector="keypoint_rcnn",
    model="tcformerv2_base",
    data_set="COCO",
    data_path="data/coco",
    neck_channels=256,
    neck_heads=4,
    neck_mlp_ratio=4.0,
    neck_reduction="cluster_norm",
    num_outs=5,
    start_level=0,
    extra="on_input",
    anchor_scale=8.0,
    min_size=800,
    max_size=1333,
    hflip=0.5,
    drop_path=0.0,
    batch_size=1,
    epochs=12,
    sched="multistep",
    decay_milestones=(8, 11),
    decay_rate=0.1,
    lr=2e-4 / 1.4 * 64,
    warmup_epochs=0,
    warmup_steps=500,
    weight_decay=1e-4,
    decay_all=True,
    amp="off",
    save_every=1,
    num_workers=4,
    output_dir="work_dirs/keypoint_rcnn_coco",
)
