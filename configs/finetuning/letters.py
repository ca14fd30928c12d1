"""tcformer_nano on a small folder of 32-pixel pictures, on a CPU: docs/results.md.

    tcformer train configs/finetuning/letters.py --data-path letters --finetune WEIGHTS

Letters are not mirrored, and a hundred pictures are too few for mixing or averaging.
"""

cfg = dict(
    model="tcformer_nano",
    input_size=32,
    batch_size=20,
    epochs=20,
    eval_every=5,
    warmup_epochs=1,
    lr=2.5e-2,
    drop_path=0.05,
    hflip=0.0,
    aa=None,
    color_jitter=None,
    reprob=0.0,
    mixup=0.0,
    cutmix=0.0,
    smoothing=0.1,
    num_workers=0,
    save_every=0,
    device="cpu",
)
