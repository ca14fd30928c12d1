"""tcformerv2_nano on scikit-learn's handwritten digits, 32 px, on a CPU.

    tcformer train configs/digits/tcformerv2_nano.py

The recipe is that of V1 beside this file. The first merge clusters inside 2 x 2 parts: there are
only 8 x 8 cells, and inside the usual 4 x 4 parts of four cells each there is nothing to choose.
"""

cfg = dict(
    model="tcformerv2_nano",
    part_grids=("2x2", "1x1", "1x1"),
    data_set="digits",
    input_size=32,
    batch_size=64,
    epochs=24,
    warmup_epochs=1,
    lr=8e-3,
    drop_path=0.05,
    ema=True,
    ema_decay=0.97,
    aa=None,
    color_jitter=None,
    reprob=0.0,
    mixup=0.0,
    cutmix=0.0,
    smoothing=0.1,
    num_workers=0,
    save_every=0,
    device="cpu",
    output_dir="work_dirs/digits_v2_nano",
)
