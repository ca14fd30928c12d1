"""Tasks whose network is a TCFormer, the MTA neck and a head: build it, load weights into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from tcformer.errors import UserError, nearest
from tcformer.models.mta import REDUCTIONS
from tcformer.models.sizes import VARIANTS
from tcformer.tasks.base import BaseTask, Batch, merging_of_options, naming, options_named
from tcformer.training.config import TrainConfig, option
from tcformer.weights.load import load_checkpoint, open_weights
from tcformer.weights.metadata import NECK
from tcformer.weights.remap import translate
from tcformer.zoo import create_model

Network = TypeVar("Network", bound=nn.Module)


class DenseTask(BaseTask[Batch]):
    """A task on tokens; weights of its backbone alone, or of a classifier, can begin it.

    Attributes:
        outputs: the parameter whose first dimension is what the network finds, classes or
            keypoints; by it weights of this task are told from others.
        head: where the keys of all that begins anew start, when the data has other outputs.
        found: what the outputs are, in words.
        kind: of network, in words.
        parts: of the network that have options, in words.
        backbone: the submodule that is a TCFormer.
        unseen: options that change what the network computes without changing a parameter's shape.
    """

    outputs: str
    head: str | tuple[str, ...]
    found = "classes"
    kind: str
    parts: str
    backbone = "backbone"
    unseen: tuple[str, ...] = ("neck_heads", "neck_reduction")

    def in_our_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in our layout, from it or from any that is published."""
        return translate(weights).whole

    def neck(self) -> dict[str, str]:
        """The options of the neck, for `about`: the parameters do not show all of them."""
        return {name: str(getattr(self.cfg.neck, name)) for name in NECK}

    def follow(
        self, said: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
    ) -> list[str]:
        """As every task, after refusing another neck with the same parameters."""
        with naming(where):
            alike = self.in_our_names(weights).keys() == self.model.state_dict().keys()
        for name in self.unseen if alike else ():
            now = str(self.cfg.flat()[name])
            if str(said.get(name, now)) != now:
                raise UserError(
                    f"{where} was trained with {option(name)} {said[name]}, but it is {now} now; "
                    f"give {option(name)} {said[name]}."
                )
        return super().follow(said, weights, where)

    def changed(self, said: Mapping[str, Any], *names: str) -> list[str]:
        """Notes on options that a file was trained with and that have other values now."""
        now = self.cfg.flat()
        return [
            f"trained with {option(name)} {said[name]}, and now it is {now[name]}"
            for name in names
            if name in said and str(said[name]) != str(now[name])
        ]

    def finetune(self, path: str) -> str:
        """Start from other weights: a backbone's (a classifier is left out), or all of these."""
        file = open_weights(path, self.average)
        said = file.notes
        with naming(path):
            weights = self.in_our_names(file.checkpoint.state_dict)
        if self.outputs not in weights:
            backbone = self.model.get_submodule(self.backbone)
            report = load_checkpoint(backbone, file.checkpoint.state_dict, where=path)
            return "; ".join([f"{report} (the backbone alone)", *said])
        own = self.model.state_dict()
        rows: list[int] | None = None
        heads = {key: value for key, value in own.items() if key.startswith(self.head)}
        if all(key in weights and weights[key].shape == heads[key].shape for key in heads):
            rows, note = self.classifier_rows(file.metadata.classes, len(own[self.outputs]), path)
            said += [note] if note else []
        else:
            outputs = (len(one[self.outputs]) for one in (weights, own))
            said.append("outputs begin anew: the file has {}, the model {}".format(*outputs))
        if rows is None:
            weights = {k: v for k, v in weights.items() if not k.startswith(self.head)}
        elif rows != sorted(rows):
            weights |= {k: v[rows] for k, v in weights.items() if k.startswith(self.head)}
        self._fit({**own, **weights}, path, self.model)
        return "; ".join([f"{len(weights)} tensors loaded from {path}", *said])

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Strictly, with a sentence about what differs."""
        self._fit(self.in_our_names(weights), where, model)

    def _fit(self, weights: Mapping[str, Tensor], where: str, model: nn.Module) -> None:
        saved = weights.get(self.outputs)
        if saved is None or not saved.ndim:
            raise UserError(
                f"{where} holds no {self.kind} ({self.outputs} is not in it); weights of a "
                "classifier are for --finetune."
            )
        own = model.state_dict()
        needed = own[self.outputs]
        if saved.ndim == needed.ndim and len(saved) != len(needed):
            raise UserError(
                f"{where} has {len(saved)} outputs, but the {self.found} of the data ({self.data}) "
                f"need {len(needed)}; give data with the same {self.found}, or train new outputs "
                "with --finetune."
            )
        for key in [*own, *weights]:
            have, want = weights.get(key), own.get(key)
            if have is not None and want is not None and have.shape == want.shape:
                continue
            problem = (
                "misses" if have is None else "has too much with" if want is None else "differs in"
            )
            raise UserError(
                f"{where} does not fit: it {problem} {key}; give the --model and the options of "
                f"the {self.parts} that it was trained with."
            )
        model.load_state_dict(weights)


def build_dense(
    cfg: TrainConfig, purpose: str, on_backbone: Callable[..., Network], **arguments: Any
) -> Network:
    """The network that the options name.

    Args:
        cfg: of the backbone: its name, merging and regularisation; of the neck: its sizes.
        purpose: what tokens are needed for, in words ("segment by").
        on_backbone: `SemanticFPN` or its like: backbone and keyword arguments to network.
        **arguments: further ones for it.

    Raises:
        UserError: an unknown name, or options that do not go together.
    """
    options, neck = cfg.network, cfg.neck
    for name, value, known, says in (
        ("model", options.model, VARIANTS, f"gives no tokens to {purpose}"),
        ("neck-reduction", neck.neck_reduction, REDUCTIONS, "is not known"),
    ):
        if value not in known:
            near = nearest(value, known)
            hint = f"did you mean {near}?" if near else f"use one of {', '.join(known)}."
            raise UserError(f"--{name} {value} {says}; {hint}")
    with options_named(options.model):
        backbone = create_model(
            options.model,
            pretrained=options.pretrained,
            num_classes=0,
            drop_path_rate=options.drop_path,
            proj_drop_rate=options.drop,
            **merging_of_options(options),
        )
        return on_backbone(
            backbone,
            neck_channels=neck.neck_channels,
            neck_heads=neck.neck_heads,
            neck_mlp_ratio=neck.neck_mlp_ratio,
            reduction=neck.neck_reduction,
            **arguments,
        )
