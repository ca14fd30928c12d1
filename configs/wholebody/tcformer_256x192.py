"""Whole-body pose on COCO-WholeBody, TCFormer-Base under MTA, 256 x 192 px. Not run by us.

    dist_train.sh configs/wholebody/tcformer_256x192.py 8 \\
        --data-path COCO --finetune tcformer-4e1adbf1_20220421.pth

The published recipe: 8 GPUs with 64 people each, AdamW at 5e-4 with decay 0.01 on all parameters,
210 epochs, a tenth of the rate at 170 and 200, a warm-up of 500 steps, no drop path (MMPose's copy
has 0.1). Released file: whole-body AP 57.6, AR 68.1, with the published boxes and flip test.
"""

cfg = dict(
    task="pose",
    model="tcformer",
    data_set="COCO-WholeBody",
    data_path="data/coco",
    crop_size=(256, 192),
    codec="classic",
    heatmap_sigma=2.0,
    neck_channels=256,
    neck_heads=4,
    neck_mlp_ratio=4.0,
    neck_reduction="pool",
    drop_path=0.0,
    batch_size=64,
    epochs=210,
    sched="multistep",
    decay_milestones=(170, 200),
    decay_rate=0.1,
    lr=5e-4,
    min_lr=0.0,
    warmup_epochs=0,
    warmup_steps=500,
    weight_decay=0.01,
    decay_all=True,
    amp="off",
    eval_every=10,
    save_every=10,
    num_workers=4,
    output_dir="work_dirs/wholebody_tcformer_256x192",
)
