"""TCFormer-Large on ImageNet-1k, 62.8 M parameters. The paper: 83.6 % top-1, with 8 GPUs.

sh dist_train.sh configs/tcformer/tcformer_large.py 8 --data-path DATA
"""

cfg = dict(
    model="tcformer_large",
    drop_path=0.3,
    clip_grad=1.0,
    output_dir="work_dirs/tcformer_large",
)
