"""Semantic FPN over MTA on ADE20K, TCFormerV2-Base, 40,000 iterations. Not run by us.

    dist_train.sh configs/segmentation/ade20k_tcformerv2_base.py 8 \\
        --data-path ADEChallengeData2016 --finetune tcformer-4e1adbf1_20220421.pth

The settings are those of the authors' development code of early 2022, not the paper's final ones,
which nobody outside knows: 8 GPUs with 4 crops of 512 px each, AdamW at 2e-4 (that is --lr 3.2e-3
for 512 images), decay 1e-4, a rate that falls to 0 by the power 0.9 without warm-up, and a start
from ImageNet weights (those of V1's base model fit). An epoch is 1000 steps here, and the rate is
set once in each, where theirs was set at every step. What else differs is in docs/segmentation.md.
"""

cfg = dict(
    task="segmentation",
    model="tcformerv2_base",
    data_set="ADE20K",
    data_path="data/ADEChallengeData2016",
    input_size=512,
    scale=(0.5, 2.0),
    hflip=0.5,
    color_jitter=0.5,
    neck_channels=256,
    neck_heads=4,
    neck_reduction="cluster_norm",
    head_channels=128,
    drop_path=0.0,
    batch_size=4,
    steps_per_epoch=1000,
    epochs=40,
    warmup_epochs=0,
    sched="poly",
    decay_rate=0.9,
    lr=3.2e-3,
    min_lr=0.0,
    weight_decay=1e-4,
    eval_every=4,
    save_every=4,
    num_workers=4,
    output_dir="work_dirs/ade20k_tcformerv2_base",
)
