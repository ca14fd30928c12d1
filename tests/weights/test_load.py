"""Every published wrapping loads; everything else is refused in one sentence."""

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tcformer
from tcformer.errors import UserError
from tcformer.models.heads import SemanticFPN, TopDownPose
from tcformer.weights.load import load_checkpoint
from tcformer.weights.metadata import save_weights
from tcformer.weights.remap import identify, translate
from tcformer.weights.safe_torch import read_checkpoint


def build(name: str = "tcformer_nano", **options) -> nn.Module:
    return tcformer.create_model(name, **{"num_classes": 7, **options})


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(3)
    return build()


@pytest.fixture(scope="module")
def state(original) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in original.state_dict().items()}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(4)
    return build()


def probe() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def assert_same(model: nn.Module, state, but: tuple[str, ...] = ()) -> None:
    for key, value in model.state_dict().items():
        if not key.startswith(but or ("-",)):
            assert torch.equal(value, state[key]), key


def refused(model, source, *words: str, **options) -> str:
    """Refused in one sentence that has the words; the model is not touched."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_checkpoint(model, source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert word in text
    assert_same(model, before)
    return text


def to_mmpose(state):
    return {
        f"backbone.{key}".replace("patch_embed1.proj.", "patch_embed1.projection."): value
        for key, value in state.items()
        if not key.startswith("head.")
    }


def to_fork(state):
    """The development fork's names, written from the specification's table."""
    fork = {}
    for key, value in state.items():
        name = key
        if match := re.match(r"block([2-4])\.(\d+)\.(.*)", key):
            stage, number, rest = int(match[1]), int(match[2]), match[3]
            rest = rest.replace("mlp.dwconv.skip.", "mlp.dwconv.dwconv_skip.")
            rest = re.sub(r"^mlp\.dwconv\.(weight|bias)", r"mlp.dwconv.dwconv.\1", rest)
            if number == 0:
                name = f"ctm{stage - 1}.block.{rest}"
            else:
                name = f"block{stage}.{number - 1}.{rest}"
        elif match := re.match(r"(ctm[1-3])\.(.*)", key):
            if match[2] == "conv.skip.weight":
                name, value = f"{match[1]}.conv_skip.weight", value[..., 0]
            else:
                name = key.replace(".score.", ".conf.")
        fork[name] = value
    return {**fork, "ctm1.T": torch.tensor(1.0), "ctm3.T": torch.tensor(1.0)}


NECK = {
    "neck.lateral_convs.0.conv.weight": torch.ones(4, 4, 1, 1),
    "keypoint_head.final_layer.weight": torch.ones(2, 4, 1, 1),
}
WRAPPINGS = {
    "bare": lambda s: s,
    "ordered": lambda s: OrderedDict(s),
    "model": lambda s: {"model": s},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "nested": lambda s: {"state_dict": {"model": s}},
    "module.": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "backbone.": lambda s: {f"backbone.{k}": v for k, v in s.items()},
    "module.backbone.": lambda s: {f"module.backbone.{k}": v for k, v in s.items()},
    "compiled": lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}},
    "development fork": lambda s: {"model": to_fork(s)},
    "fork in a backbone": lambda s: {f"backbone.{k}": v for k, v in to_fork(s).items()},
    "projection": lambda s: {
        k.replace("patch_embed1.proj.", "patch_embed1.projection."): v for k, v in s.items()
    },
    "Lightning": lambda s: {
        "state_dict": {
            **{f"model.{k}": v for k, v in s.items()},
            "criterion.weight": torch.ones(3),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": np.float64(0.1)},
    },
    "net.module.": lambda s: {f"net.module.{k}": v for k, v in s.items()},
    "compiled inside": lambda s: {"params": {f"model._orig_mod.{k}": v for k, v in s.items()}},
    "model.backbone.": lambda s: {
        "model_state_dict": {f"model.backbone.{k}": v for k, v in s.items()},
        "optimizer_state_dict": {"state": {}, "param_groups": []},
    },
    "unknown entry": lambda s: {"net": {"best": {f"module.{k}": v for k, v in s.items()}}},
    "a classifier beside": lambda s: {
        k if k.startswith("head.") else f"encoder.{k}": v for k, v in s.items()
    },
    "training": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
        "lr_scheduler": {"t_initial": 300},
        "epoch": 12,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="tcformer", lr=5e-4, opt_betas=None, aa="rand-m9"),
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_loads(tmp_path, model, state, wrapping):
    file = tmp_path / "weights.pth"
    content = WRAPPINGS[wrapping](state)
    torch.save(content, file, _use_new_zipfile_serialization=bool(len(wrapping) % 3))
    report = load_checkpoint(model, file)
    assert_same(model, state)
    assert report.complete
    assert set(report.loaded) == set(state)
    assert report.source == str(file)
    assert not report.unexpected
    assert not report.mismatched
    translated = wrapping not in ("bare", "ordered", "model", "state_dict", "nested", "training")
    assert bool(report.notes) == translated
    assert report.epoch == {"state_dict": 3, "training": 12}.get(wrapping)


def expanded(name):
    """Weights of this network, a number of its own in each tensor; they take no memory."""
    with torch.device("meta"):
        shapes = timm.create_model(name, num_classes=7).state_dict()
    return {k: torch.tensor(1.0 * i).expand(v.shape) for i, (k, v) in enumerate(shapes.items())}


def test_fork_numbering_with_deeper_stages():
    state = expanded("tcformer")
    translated = translate(to_fork(state)).backbone
    assert list(translated) == list(state)
    assert all(translated[key].shape == state[key].shape for key in state)
    assert all(translated[key].max() == state[key].max() for key in state if key[-4:] == "bias")


def test_mmpose_checkpoint(tmp_path, model, state):
    file = tmp_path / "pose.pth"
    content = {"meta": {"epoch": 210, "mmpose_version": "0.26"}, "optimizer": {}}
    torch.save({**content, "state_dict": {**to_mmpose(state), **NECK}}, file)
    text = refused(model, file, "no classifier", "allow_head_mismatch")
    assert "7 classes" in text
    report = load_checkpoint(model, file, allow_head_mismatch=True)
    assert_same(model, state, but=("head.",))
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert set(report.ignored) == set(NECK)
    assert report.epoch == 210
    assert any("keypoint_head, neck" in note for note in report.notes)
    assert any("projection" in note for note in report.notes)
    assert "not in the file: head" in str(report)

    backbone = build(num_classes=0)
    assert load_checkpoint(backbone, file).complete
    assert_same(backbone, state)


@pytest.mark.parametrize("kind", [SemanticFPN, TopDownPose])
def test_whole_networks_with_their_neck_and_head(kind):
    one, other = (kind(build(num_classes=0), 5) for _ in range(2))
    state = {key: value + 1 for key, value in one.state_dict().items()}
    stem = ("patch_embed1.proj.", "patch_embed1.projection.")
    load_checkpoint(other, {"state_dict": {f"module.{k.replace(*stem)}": state[k] for k in state}})
    assert_same(other, state)
    refused(other, {k: v for k, v in state.items() if "neck.merge" not in k}, "neck.merge_blocks")


def test_classifier_is_left_out_for_a_backbone(state):
    report = load_checkpoint(build(num_classes=0), state)
    assert report.complete
    assert set(report.ignored) == {"head.weight", "head.bias"}
    assert any("classifier left out" in note for note in report.notes)


def test_another_number_of_classes(tmp_path, model, state):
    save_weights(state, tmp_path / "w.safetensors")
    other = build(num_classes=12)
    refused(other, tmp_path / "w.safetensors", "7 classes", "12", "w.safetensors")
    head = other.head.weight.clone()
    report = load_checkpoint(other, tmp_path / "w.safetensors", allow_head_mismatch=True)
    assert torch.equal(other.head.weight, head)
    assert_same(other, state, but=("head.",))
    assert set(report.ignored) == {"head.weight", "head.bias"}
    assert ("head.bias", (7,), (12,)) in report.mismatched
    assert not report.missing
    assert not report.complete
    assert any("7 classes" in note and "12" in note for note in report.notes)
    report = load_checkpoint(build(num_classes=12), state, strict=False)
    assert {key for key, _, _ in report.mismatched} == {"head.weight", "head.bias"}
    # Where the head fits it is loaded, and what else is missing is refused.
    assert load_checkpoint(model, state, allow_head_mismatch=True).complete
    assert_same(model, state)
    state = {key: value for key, value in state.items() if key != "norm2.weight"}
    refused(model, state, "norm2.weight", "missing", allow_head_mismatch=True)


def test_safetensors_round_trip(tmp_path, original, model, state):
    save_weights(original, tmp_path / "w.safetensors", {"epoch": 4, "recipe": "digits"})
    report = load_checkpoint(model, tmp_path / "w.safetensors")
    assert_same(model, state)
    assert report.epoch == 4
    told = {"model": "tcformer_nano", "num_classes": "7", "in_chans": "3", "recipe": "digits"}
    assert told.items() <= read_checkpoint(tmp_path / "w.safetensors").meta.items()
    assert set(load_file(tmp_path / "w.safetensors")) == set(state)


def test_same_weights_give_the_same_file(tmp_path):
    state = probe().state_dict()
    for name in ("a", "b", "c"):
        save_weights(state, tmp_path / name, {f"entry {i}": "é" * i for i in range(9)})
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1
    assert read_checkpoint(tmp_path / "a").meta["entry 3"] == "ééé"


def test_saving_takes_wrappers_off_and_copes_with_shared_memory(tmp_path):
    base = torch.randn(8, 4)
    save_weights({"module.a": base, "module.b": base.t()}, tmp_path / "w.safetensors")
    written = load_file(tmp_path / "w.safetensors")
    assert torch.equal(written["b"], base.t())
    assert set(written) == {"a", "b"}
    with pytest.raises(UserError, match="does not exist"):
        save_weights({"a": base}, tmp_path / "no" / "w.safetensors")


def test_kind_is_told_by_content_not_by_name(tmp_path):
    state = probe().state_dict()
    save_weights(state, tmp_path / "misnamed.pth")
    torch.save(state, tmp_path / "misnamed.safetensors")
    for name in ("misnamed.pth", "misnamed.safetensors"):
        assert load_checkpoint(probe(), tmp_path / name).complete


@pytest.mark.parametrize(
    "holder",
    [
        lambda last, average: {"model": last, "model_ema": average},
        lambda last, average: {"params": last, "params_ema": average},
        lambda last, average: {"a": {"net": last, "ema": {"decay": 0.9, "module": average}}},
    ],
)
def test_averaged_weights_by_choice(tmp_path, holder):
    model, last = probe(), probe().state_dict()
    average = {key: value + 1 for key, value in last.items()}
    torch.save(holder(last, average), tmp_path / "a.pth")
    for ema, expected in ((None, average), (True, average), (False, last)):
        load_checkpoint(model, tmp_path / "a.pth", ema=ema)
        assert_same(model, expected)
    assert read_checkpoint(tmp_path / "a.pth", ema=None).averaged


def test_averaged_weights_that_are_not_there(tmp_path):
    model, state = probe(), probe().state_dict()
    torch.save({"model": state}, tmp_path / "plain.pth")
    save_weights(state, tmp_path / "w.safetensors")
    for name in ("plain.pth", "w.safetensors"):
        refused(model, tmp_path / name, "EMA", ema=True)
    load_checkpoint(model, {"model_ema": None, "model": state}, ema=None)
    assert_same(model, state)


class Parallel(nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    """What torch.compile(model) looks like from outside; the real one takes seconds to import."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_models_inside_wrappers(state):
    inner = build()
    load_checkpoint(Parallel(inner), state)
    assert_same(inner, state)
    compiled = build()
    load_checkpoint(Parallel(Compiled(compiled)), state)
    assert_same(compiled, state)
    features = timm.create_model("tcformer_nano", features_only=True)
    report = load_checkpoint(features, state)
    assert report.complete
    assert torch.equal(features.model.norm4.weight, state["norm4.weight"])


def test_half_precision_file_into_a_float_model(model, state):
    load_checkpoint(model, {key: value.half() for key, value in state.items()})
    assert model.norm1.weight.dtype == torch.float32
    assert_same(model, {key: value.half().float() for key, value in state.items()})


def test_variants_are_told_apart():
    for name in ("tcformer_nano", "tcformer_light", "tcformer", "tcformer_large"):
        with torch.device("meta"):
            found = identify(tcformer.create_model(name).state_dict())
        assert found is not None
        assert (found.name, found.num_classes, found.in_chans) == (name, 1000, 3)


def test_wrong_architecture_is_named(model, state):
    light = expanded("tcformer_light")
    refused(model, light, "the state dict", "tcformer_light", "nano", "create tcformer_light")
    refused(model, expanded("tcformer"), "[2, 2, 2, 2]", "[3, 4, 6, 3]")
    # Sizes without a name are described.
    shallow = {key: value for key, value in state.items() if not key.startswith("block3.1.")}
    refused(model, shallow, "[2, 2, 1, 2]")
    refused(build(in_chans=1), state, "3 channels", "takes 1")


@pytest.mark.parametrize("name", ["resnet10t", "pvt_v2_b0"])
def test_weights_of_another_network(tmp_path, model, name):
    other = expanded(name)
    refused(model, other, "another kind of network")
    if name == "resnet10t":
        refused(model, other, "another kind", strict=False)


def test_report_names_every_key(model, state):
    odd = dict(state)
    del odd["norm2.weight"]
    odd["norm3.bias"] = torch.zeros(3)
    odd["extra.weight"] = torch.zeros(3)
    refused(model, odd, "norm2.weight", "norm3.bias", "extra.weight", "[3]", "[160]")
    report = load_checkpoint(model, odd, strict=False)
    assert report.missing == ("norm2.weight",)
    assert report.unexpected == ("extra.weight",)
    assert report.mismatched == (("norm3.bias", (3,), (160,)),)
    assert not report.complete
    assert torch.equal(model.norm1.weight, state["norm1.weight"])


def test_the_same_key_twice(model, state):
    refused(model, {**state, "module.norm1.weight": state["norm1.weight"]}, "norm1.weight", "twice")


@pytest.mark.parametrize(
    "odd",
    [
        torch.empty(7, device="meta"),
        torch.ones(7).to_sparse(),
        torch.ones(7, dtype=torch.complex64),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_that_are_no_weights_leave_the_model_untouched(model, state, odd):
    refused(model, {**state, "head.bias": odd}, "head.bias", "no weight")


FOREIGN = {
    "a text file": b"epoch,loss\n1,2\n" * 40,
    "a PNG picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "a JPEG picture": b"\xff\xd8\xff\xe0" + bytes(200),
    "a web page": b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "zeros": bytes(5000),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "some other kind": bytes(range(1, 256)) * 3,
}


@pytest.mark.parametrize("words", FOREIGN)
def test_foreign_files(tmp_path, words):
    (tmp_path / "file.pth").write_bytes(FOREIGN[words])
    refused(probe(), tmp_path / "file.pth", "file.pth", words)


def test_other_files_that_are_none(tmp_path):
    model = probe()
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty.pth").touch()
    save_file({}, tmp_path / "none.safetensors")
    for name, words in {
        "zip.pth": "none that torch.save wrote",
        "plain.pkl": "plain.pkl",
        "empty.pth": "empty",
        "absent.pth": "no such file",
        ".": "folder",
        "none.safetensors": "no weights",
    }.items():
        refused(model, tmp_path / name, words)
    for content in ([1, 2], torch.ones(3), {"epoch": 3}, {}, {"model": {}}, {1: torch.ones(2)}):
        torch.save(content, tmp_path / "odd.pth")
        refused(model, tmp_path / "odd.pth", "odd.pth")


def test_a_dict_that_contains_itself(model):
    loop: dict = {}
    loop["model"] = loop
    refused(model, loop, "no weights")


def test_numpy_scalars_beside_the_weights(tmp_path):
    model, state = probe(), probe().state_dict()
    plain = [np.float64(0.7), np.int32(-3), np.bool_(True), np.str_("hé"), np.dtype(">f4")]
    content = {"model": state, "best": plain, "draws": np.random.RandomState(0).get_state()}
    torch.save(content, tmp_path / "a.pth")
    load_checkpoint(model, tmp_path / "a.pth")
    assert_same(model, state)
    assert read_checkpoint(tmp_path / "a.pth").raw["best"][:4] == [0.7, -3, True, "hé"]


@pytest.mark.parametrize("kind", ["O", "V8", "M8[ns]", "f8"])
def test_numpy_scalars_of_other_kinds_are_refused(tmp_path, kind):
    """Bytes that NumPy would take for an address, or of another length than the number's."""

    class Scalar:
        def __reduce__(self):
            return np.float64(0).__reduce__()[0], (np.dtype(kind), b"1234567")

    torch.save({"model": {"a": torch.ones(1)}, "x": Scalar()}, tmp_path / "a.pth")
    refused(probe(), tmp_path / "a.pth", "NumPy")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (lambda s: {"student": s, "teacher": {k: v + 1 for k, v in s.items()}}, "student.*teacher"),
        (lambda s: {"model": s, "params": {k: v + 1 for k, v in s.items()}}, "model.*params"),
        (lambda s: {f"{n}.{k}": v for n in ("a", "model") for k, v in s.items()}, "a.*model"),
    ],
)
def test_several_networks_are_refused_by_their_names(model, state, content, names):
    assert re.search(names, refused(model, content(state)))


def test_the_same_weights_twice_are_taken(model, state):
    load_checkpoint(model, {"model": state, "state_dict": dict(state), "epoch": 3})
    assert_same(model, state)


def test_other_networks_behind_a_prefix(tmp_path):
    """As Lightning saves them: all of the network behind one prefix, a criterion beside it."""
    network, other = probe(), probe()
    saved = {f"model.{key}": value + 1 for key, value in network.state_dict().items()}
    load_checkpoint(other, {"state_dict": {**saved, "criterion.weight": torch.ones(3)}})
    assert_same(other, {key: value + 1 for key, value in network.state_dict().items()})
