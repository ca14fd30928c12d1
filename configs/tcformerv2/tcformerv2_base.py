"""TCFormerV2 (base), with Local CTM, on ImageNet-1k, 25.6 M parameters.

    sh dist_train.sh configs/tcformerv2/tcformerv2_base.py 8 --data-path DATA

The schedule behind the results of the V2 paper was not published: this is the one of V1. We have
not run it, and claim no figure.
"""

cfg = dict(
    model="tcformerv2_base",
    drop_path=0.1,
    clip_grad=None,
    output_dir="work_dirs/tcformerv2_base",
)
