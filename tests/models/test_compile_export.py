import pytest
import torch
from compiled import Graphs

import tcformer
from tcformer import drawn
from tcformer.models import SemanticFPN
from tcformer.models.heads import TopDownPose
from tcformer.ops import csrc, regroup
from tcformer.ops.linear import unsupported_reason as onednn_unsupported_reason


def small(name="tcformer_nano", **options):
    """A network of one block a stage: the graph of all others is as much longer."""
    return tcformer.create_model(name, depths=(1, 1, 1, 1), **options)


@pytest.fixture(params=["tcformer_nano", pytest.param("tcformerv2_nano", marks=pytest.mark.slow)])
def model(request):
    torch.manual_seed(0)
    torch._dynamo.reset()
    return small(request.param, num_classes=10).eval()


X = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_export_with_a_dynamic_batch(model):
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (X,), dynamic_shapes=({0: batch},))
    for size in (1, 2, 5):
        x = torch.randn(size, 3, 64, 64)
        torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_compile_makes_one_graph_forward(model):
    graphs = Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    torch.testing.assert_close(compiled(X), model(X), rtol=0, atol=1e-5)
    # The kernels that run eagerly, not what stands for them in exported graphs.
    if csrc.library() is not None:
        assert graphs.count("tcformer.dpc_knn") == 3
        assert graphs.count("tcformer.regroup_plan") >= 6
        assert graphs.count("tcformer.gather_sum") >= 9
        assert graphs.count("tcformer.token_mlp") == 4
        assert not graphs.count("topk", "scatter_add")
    if onednn_unsupported_reason() is None:
        assert graphs.count("tcformer.onednn_linear") > 12


@torch.no_grad()
def test_compiled_regrouping_is_as_exact_under_autocast():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 49, 64, generator=generator)
    src, dst = (torch.randint(high, (2, 400), generator=generator) for high in (49, 30))

    def run(x, impl="auto"):
        return regroup(x, src, dst, 30, impl=impl)

    exact = run(x.double(), "reference")
    torch._dynamo.reset()
    with torch.autocast("cpu", torch.bfloat16):
        for function in (run, torch.compile(run, fullgraph=True, backend="eager")):
            for impl in ("auto", "export"):
                assert (function(x, impl) - exact).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tcformer_nano"], indirect=True)
def test_compile_makes_one_graph_backward(model):
    model.train()
    model(X).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(X).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.slow(seconds=50)
@pytest.mark.versions
def test_inductor_forward_and_backward():  # forward alone: tests/export/test_formats.py[aoti]
    torch._dynamo.reset()
    model = small().eval()
    found = torch.compile(model, fullgraph=True)(X)
    torch.testing.assert_close(found, model(X), rtol=0, atol=1e-5)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class DenseWithTokens(torch.nn.Module):
    """What is built on a backbone, with its clusters laid open; the backbone runs once."""

    def __init__(self):
        super().__init__()
        self.backbone = small(num_classes=0)
        whole = SemanticFPN(self.backbone, 3, neck_channels=16, channels=16)
        self.neck, self.decode_head = whole.neck, whole.decode_head
        pose = TopDownPose(self.backbone, 3, neck_channels=16)
        self.pose_neck, self.keypoint_head = pose.neck, pose.keypoint_head

    def forward(self, x):
        stages = self.backbone.forward_tokens(x)
        scores = self.decode_head(self.neck(stages))
        heatmaps = self.keypoint_head(self.pose_neck(stages)[0])
        return (scores, heatmaps, *[tokens.layout.cell_to_token for tokens in stages])


def smp_fpn():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="its decoders export here")
    return smp.FPN("tu-tcformer_nano", encoder_weights=None, classes=3, depths=(1, 1, 1, 1))


def torchvision_pyramid():
    from tcformer.integrations.torchvision import pyramid

    return pyramid(small("tcformerv2_nano", num_classes=0), out_channels=32, num_outs=5)


USERS = {  # classifiers: tests/export
    "dense": DenseWithTokens,
    "smp": smp_fpn,
    "torchvision": torchvision_pyramid,
}


@pytest.mark.slow(seconds=40)
@pytest.mark.timeout(900)  # seconds of work, which may take minutes on a busy machine
@pytest.mark.parametrize("which", USERS)
@torch.no_grad()
def test_onnx_export_by_users(which, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime")
    pytest.importorskip("onnxscript", reason="PyTorch writes ONNX with it")
    torch.manual_seed(0)
    model, path = USERS[which]().eval(), tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(model, (X,), path, dynamo=True, verbose=False, dynamic_shapes=({0: batch},))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    even = torch.from_numpy(drawn.even((64, 64))).permute(0, 3, 1, 2) / 64 - 2
    for images in (even[:1], torch.cat((X, even))):
        expected = model(images)
        if isinstance(expected, dict):
            expected = list(expected.values())
        expected = [expected] if isinstance(expected, torch.Tensor) else expected
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            theirs = torch.from_numpy(theirs)
            if ours.is_floating_point():
                torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
            else:
                assert torch.equal(theirs, ours)
