"""Whole-body pose on COCO-WholeBody, TCFormer-Large under MTA, 384 x 288 px. Not run by us.

    dist_train.sh configs/wholebody/tcformer_large_384x288.py 8 \\
        --data-path COCO --finetune tcformer_large-a47cc309_20220606.pth

The published recipe: 16 people a GPU (how many GPUs it does not say; --lr is meant for 512 people
a step and scaled down for fewer), AdamW at 5e-4 with decay 0.01 on all parameters, 210 epochs,
a tenth of the rate at 170 and 200, a warm-up of 500 steps. Released file: whole-body AP 64.2, AR
73.3, with the published boxes and flip test.
"""

cfg = dict(
    task="pose",
    model="tcformer_large",
    data_set="COCO-WholeBody",
    data_path="data/coco",
    crop_size=(384, 288),
    codec="classic",
    heatmap_sigma=2.0,
    neck_channels=256,
    neck_heads=4,
    neck_mlp_ratio=4.0,
    neck_reduction="pool",
    drop_path=0.0,
    batch_size=16,
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
    eval_every=5,
    save_every=5,
    num_workers=4,
    output_dir="work_dirs/wholebody_tcformer_large_384x288",
)
