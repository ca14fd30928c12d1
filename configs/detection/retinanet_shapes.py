"""RetinaNet over tcformer_nano on drawn shapes, on a CPU.

    tcformer train configs/detection/retinanet_shapes.py

What it reaches and in what time stands in docs/dense.md.
"""

cfg = dict(
    task="detection",
    detector="retinanet",
    model="tcformer_nano",
    data_set="shapes",
    num_shapes=240,
    neck_channels=64,
    neck_heads=2,
    neck_mlp_ratio=2.0,
    neck_reduction="cluster",
    num_outs=3,
    anchor_scale=3.0,
    head_norm=True,
    min_size=64,
    max_size=64,
    drop_path=0.0,
    batch_size=4,
    epochs=2,
    sched="step",
    decay_epochs=100,
    lr=0.128,
    warmup_epochs=0,
    warmup_steps=20,
    weight_decay=1e-4,
    decay_all=True,
    save_every=0,
    num_workers=0,
    device="cpu",
    output_dir="work_dirs/retinanet_shapes",
)
