"""Semantic FPN over MTA on ADE20K, TCFormer-Light, 40,000 iterations. Not run by us.

    dist_train.sh configs/segmentation/ade20k_tcformer_light.py 8 \\
        --data-path ADEChallengeData2016 --finetune tcformer_light.pth

V1 clusters all 16,384 tokens of a crop with each other at its first merge; the recipe of V2 beside
this file, which explains the settings, does a sixteenth of that work.
"""

cfg = dict(
    task="segmentation",
    model="tcformer_light",
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
    output_dir="work_dirs/ade20k_tcformer_light",
)
