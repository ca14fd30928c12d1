"""tcformer_nano on a few hundred photographs at 64 px, on a CPU: docs/results.md.

    tcformer train configs/finetuning/photographs.py --data-path pictures --finetune WEIGHTS

Less than a minute on a free core. Photographs may be mirrored and cropped; a few hundred are too
few for mixing or averaging in so short a run.
"""

cfg = dict(
    model="tcformer_nano",
    input_size=64,
    crop_area=(0.5, 1.0),
    batch_size=24,
    epochs=20,
    eval_every=5,
    warmup_epochs=1,
    lr=1e-2,
    drop_path=0.05,
    clip_grad=1.0,
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
