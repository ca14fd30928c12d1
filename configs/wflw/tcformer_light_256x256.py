"""Face alignment on WFLW, TCFormer-Light under MTA, 256 x 256 px. Not run by us.

    dist_train.sh configs/wflw/tcformer_light_256x256.py 8 \\
        --data-path WFLW --finetune tcformer_light.pth

The authors released no recipe for WFLW. This one is that of their development code: 8 GPUs with 64
faces each, AdamW at 2e-3 with decay 0.01, 60 epochs, a tenth of the rate at 40 and 55, a warm-up of
500 steps, a neck of 128 channels whose keys are merged by the last stage's clusters. The paper has
a normalised mean error of 4.28 % on the test set.
"""

cfg = dict(
    task="pose",
    model="tcformer_light",
    data_set="WFLW",
    data_path="data/wflw",
    crop_size=(256, 256),
    codec="classic",
    heatmap_sigma=2.0,
    neck_channels=128,
    neck_heads=4,
    neck_mlp_ratio=2.0,
    neck_reduction="cluster_norm",
    drop_path=0.0,
    shift_prob=0.0,
    half_body_prob=0.0,
    scale_spread=0.25,
    rotation=30.0,
    batch_size=64,
    epochs=60,
    sched="multistep",
    decay_milestones=(40, 55),
    decay_rate=0.1,
    lr=2e-3,
    min_lr=0.0,
    warmup_epochs=0,
    warmup_steps=500,
    weight_decay=0.01,
    decay_all=True,
    amp="off",
    eval_every=5,
    save_every=5,
    num_workers=4,
    output_dir="work_dirs/wflw_tcformer_light_256x256",
)
