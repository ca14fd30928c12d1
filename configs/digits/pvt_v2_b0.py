"""timm's pvt_v2_b0 on scikit-learn's handwritten digits, 32 px, on a CPU: the baseline.

    tcformer train configs/digits/pvt_v2_b0.py

The network of tcformer_nano, except that its tokens stay squares of a grid: nothing merges by what
it shows. The recipe is that of tcformer_nano beside this file.
"""

cfg = dict(
    model="pvt_v2_b0",
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
    output_dir="work_dirs/digits_pvt_v2_b0",
)
