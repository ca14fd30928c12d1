"""tcformer_nano finds the eleven keypoints of stick figures, on a CPU; nothing is downloaded.

tcformer train configs/pose/sticks.py
"""

cfg = dict(
    task="pose",
    model="tcformer_nano",
    data_set="sticks",
    crop_size=(96, 96),
    heatmap_sigma=1.5,
    neck_channels=64,
    neck_heads=2,
    neck_mlp_ratio=2.0,
    neck_reduction="cluster",
    shift_prob=0.0,
    half_body_prob=0.0,
    scale_spread=0.15,
    rotation=15.0,
    drop_path=0.0,
    batch_size=16,
    epochs=4,
    warmup_epochs=0,
    warmup_steps=50,
    lr=6.4e-2,
    clip_grad=1.0,
    weight_decay=0.01,
    ema=True,
    ema_decay=0.97,
    num_workers=0,
    eval_every=2,
    save_every=0,
    device="cpu",
    output_dir="work_dirs/pose_sticks",
)
