"""TCFormer (base) on ImageNet-1k, 25.6 M parameters. The paper: 82.3 % top-1, with 8 GPUs.

sh dist_train.sh configs/tcformer/tcformer.py 8 --data-path DATA
"""

cfg = dict(
    model="tcformer",
    drop_path=0.1,
    clip_grad=None,
    output_dir="work_dirs/tcformer",
)
