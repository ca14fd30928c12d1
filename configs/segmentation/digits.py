"""tcformer_nano segments digits on textured canvases, 64 px, on a CPU; nothing is downloaded.

    tcformer train configs/segmentation/digits.py

Two or three handwritten digits lie on a canvas and may cover each other; the eleventh class is what
is behind. Every training scene is new, so nothing can be learned by heart.
What it reaches and in what time stands in docs/segmentation.md.
"""

cfg = dict(
    task="segmentation",
    model="tcformer_nano",
    data_set="digits",
    input_size=64,
    scale=(1.0, 1.0),
    color_jitter=None,
    neck_channels=64,
    neck_heads=2,
    neck_reduction="cluster",
    head_channels=64,
    drop_path=0.0,
    batch_size=16,
    epochs=14,
    warmup_epochs=0,
    lr=6.4e-2,
    clip_grad=1.0,
    weight_decay=0.05,
    ema=True,
    ema_decay=0.97,
    num_workers=0,
    eval_every=7,
    save_every=0,
    device="cpu",
    output_dir="work_dirs/segmentation_digits",
)
