"""Image towers: timm backbones that are trained as a whole, by LoRA adapters, or not at all."""

import difflib
import pickle
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn

from vldd_dist.config.sections.model import ImageTowerSettings, LoraSettings, without_weights
from vldd_dist.errors import ConfigError, DataError, message_of
from vldd_dist.models import libraries
from vldd_dist.seeding import seeded
from vldd_dist.store.user_files.reachability import reaching

# Parameters of timm whose shapes depend on the size of the images.
POSITIONS = re.compile(r"pos_embed|rel_pos|relative_position")


def check_backbone_name(name: str) -> None:
    """Raises ConfigError with similar names when timm does not know the model."""
    timm = libraries.timm()
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise ConfigError(f"model.image.model: timm has no {name!r}" + (f"; similar names: {', '.join(near)}" if near else ""))


def create_backbone(name: str, arguments: dict[str, Any], *, pretrained: bool, seed: int) -> nn.Module:
    """A timm model without its classifier: (B, 3, H, W) -> (B, num_features). Random weights are drawn by `seed`.

    Raises:
        ConfigError: timm does not know the model or its arguments, cannot load its weights, or an argument says where weights
            come from.
        StoreError: the hub with the weights cannot be reached at the moment, or the disk for them is full.
    """
    check_backbone_name(name)
    try:
        without_weights(arguments)
    except ValueError as error:
        raise ConfigError(f"model.image.model_args: {error}") from None
    with seeded(seed):
        try:
            with reaching(f"model.image.weights: timm's {name}", ", or without a network name a .safetensors file"):
                return libraries.timm().create_model(name, pretrained=pretrained, num_classes=0, **arguments)
        except TypeError as error:
            raise ConfigError(f"model.image.model_args: {name} does not take them: {error}") from None
        except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
            if not pretrained:
                raise ConfigError(
                    f"model.image.model: timm cannot create {name} ({message_of(error)}): correct its name or model_args"
                ) from error
            raise ConfigError(
                f"model.image.weights: timm cannot load pretrained weights of {name} ({message_of(error)}): "
                "name a .safetensors file, or random"
            ) from None


def public_weights(name: str) -> dict[str, str]:
    """What timm knows about its pretrained weights of a model: their full name, location and licence."""
    config = libraries.timm().get_pretrained_cfg(name)
    if config is None:
        return {"name": name}
    tag = f".{config.tag}" if config.tag else ""
    facts = {
        "name": f"{config.architecture or name.partition('.')[0]}{tag}",
        "hub": config.hf_hub_id,
        "url": config.url,
        "licence": config.license,
    }
    return {key: value for key, value in facts.items() if value}


def pretrained_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and the standard deviation that timm's weights were trained with (pixels are in 0..1); None if there are no such
    weights."""
    config = libraries.timm().get_pretrained_cfg(name)
    return None if config is None else (tuple(config.mean), tuple(config.std))


@torch.no_grad()
def check_forward(backbone: nn.Module, name: str, size: int) -> None:
    """Try a backbone that is on the meta device and in evaluation mode.

    Raises:
        ConfigError: it does not accept images of `size` pixels, does not return one vector for an image, or does not call a
            layer that has a LoRA adapter.
    """
    adapted = {layer: module for layer, module in backbone.named_modules() if hasattr(module, "lora_A")}
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in adapted.values()]
    try:
        features = backbone(torch.empty(1, 3, size, size, device="meta"))
    except NotImplementedError:
        # An operation without a meta kernel says nothing about the model.
        return
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"data.image_size: {name} does not accept images of {size} px ({message_of(error)}): "
            f"set model_args: {{img_size: {size}}} if the model has it, otherwise choose another size or model"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    if features.shape != (1, feature_size(backbone)):
        raise ConfigError(
            f"model.image.model_args: {name} returns values of shape {tuple(features.shape)} for an image, not one vector: "
            "remove global_pool, or choose another"
        )
    # Some models of timm compute with a layer's weight without calling the layer, and so without its adapter.
    if unused := [layer for layer, module in adapted.items() if module not in called]:
        raise ConfigError(
            f"model.image.lora.targets: {name} does not call {unused[0]}, so its adapter would have no effect: name other "
            "layers, or choose another model"
        )


def feature_size(backbone: nn.Module) -> int:
    """Number of a timm backbone's features. Raises ConfigError if it returns no vector, but several maps of features."""
    # For models that pool before a last hidden layer (MobileNetV3, VGG), num_features is the size before that layer.
    size = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features", None)
    if not isinstance(size, int):
        raise ConfigError("model.image.model_args: the model does not return one vector for an image: remove features_only")
    return size


def load_backbone(backbone: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load a timm state dict into a backbone. Keys of a classifier, which the backbone lacks, are ignored. Position embeddings
    of another image size are resampled as timm resamples those of its own weights.

    Raises:
        DataError: keys are missing, unknown, or of another shape.
    """
    check_weights_fit(backbone, weights, name)
    wanted = backbone.state_dict()
    if any(weights[key].shape != value.shape for key, value in wanted.items() if key in weights):
        weights = _resampled(backbone, weights, name)
    backbone.load_state_dict({key: weights.get(key, wanted[key]) for key in wanted})


def check_weights_fit(backbone: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Raises DataError if weights do not fit a backbone, apart from the sizes of its position embeddings. Both may be on the
    meta device."""
    wanted = backbone.state_dict()
    unknown = [key for key in weights if key not in wanted and not key.startswith(_classifier_prefixes(backbone))]
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    misshapen = [
        key for key in wanted if key in weights and weights[key].shape != wanted[key].shape and not POSITIONS.search(key)
    ]
    for problem, keys in (("lack", missing), ("have unknown", unknown), ("have other shapes for", misshapen)):
        if keys:
            more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
            raise DataError(f"model.image.weights: the weights {problem} {', '.join(keys[:2])}{more}: they are not of {name}")


@torch.no_grad()
def _resampled(backbone: nn.Module, weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights with position embeddings for the backbone's image size. Raises DataError if timm cannot resample them."""
    wanted = backbone.state_dict()
    others = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    # The module of an architecture has the function with which timm loads pretrained weights.
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert(dict(weights), backbone) if convert is not None else {}
    except (AssertionError, RuntimeError, ValueError):
        converted = {}
    if any(key not in converted or converted[key].shape != wanted[key].shape for key in others):
        raise DataError(
            f"model.image.weights: {others[0]} has the shape {tuple(weights[others[0]].shape)}, not "
            f"{tuple(wanted[others[0]].shape)}, and cannot be resampled: the weights are of {name} with another image size or "
            "other model.image.model_args: set those, or name other weights"
        )
    return weights | {key: converted[key] for key in others}


def _classifier_prefixes(backbone: nn.Module) -> tuple[str, ...]:
    """Key prefixes of the model's classifier, or classifiers (distilled ViTs have two)."""
    names: str | tuple[str, ...] = backbone.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return tuple(f"{name.partition('.')[0]}." for name in ((names,) if isinstance(names, str) else names))


def enable_grad_checkpointing(backbone: nn.Module, name: str) -> None:
    """Recompute activations in the backward pass. Raises ConfigError if timm does not support it for the model."""
    # Reentrant checkpointing has no second derivative; timm's environment variable could switch it on.
    libraries.timm().layers.set_reentrant_ckpt(False)
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AssertionError, AttributeError):
        raise ConfigError(f"model.image.grad_checkpointing: timm's {name} does not support it: set it to false") from None


def make_trainable(backbone: nn.Module, settings: ImageTowerSettings) -> nn.Module:
    """Set which of the backbone's parameters are trainable: all, LoRA adapters (which are added here), or none."""
    if settings.train == "lora":
        return add_lora(backbone, settings.lora)
    return backbone.requires_grad_(settings.train == "full")


def add_lora(backbone: nn.Module, settings: LoraSettings) -> nn.Module:
    """Add LoRA adapters to the linear layers whose full name matches `targets`, and freeze everything else (Hu et al.
    2106.09685).

    Raises:
        ConfigError: no layer matches, or `targets` is not a regular expression.
    """
    # Imported here, so that peft is loaded for LoRA only.
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    try:
        matching = [name for name in names if re.fullmatch(settings.targets, name)]
    except re.error as error:
        raise ConfigError(f"model.image.lora.targets: {settings.targets!r} is not a regular expression: {error}") from None
    if not names:
        raise ConfigError("model.image.train: lora: the model has no linear layer to adapt: choose a ViT, or set train to full")
    if not matching:
        raise ConfigError(
            f"model.image.lora.targets: {settings.targets!r} matches no linear layer; there are for example "
            f"{', '.join(names[:3])}"
        )
    backbone.requires_grad_(False)
    # peft takes a list of names as the ends of names, and an expression as `re.fullmatch` does.
    expression = "|".join(map(re.escape, matching))
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=expression, lora_dropout=settings.dropout, bias="none"
    )
    return inject_adapter_in_model(config, backbone)


def refuse_backbone_dropout(model: nn.Module) -> None:
    """`refuse_dropout` for the backbone of a dual encoder. A frozen one stays in evaluation mode and never drops."""
    if not model.freezes_backbone:
        refuse_dropout(model.get_submodule("image_backbone"))


def refuse_dropout(backbone: nn.Module) -> None:
    """Raises ConfigError for a trained backbone with dropout. With several ranks each sees only its own rows, so the masks and
    the result would depend on the number of ranks. Heads see all rows on every rank and may have dropout."""
    for name, module in backbone.named_modules():
        # timm's layers that drop have one of the first names. Other modules of timm have one of the last, and call a function.
        is_layer = "Drop" in type(module).__name__
        fields = ("p", "drop_prob", "prob") if is_layer else ("drop_rate", "attn_drop_p")
        if probability := max(getattr(module, field, None) or 0 for field in fields):
            raise ConfigError(
                f"{f'image_backbone.{name}'.rstrip('.')} drops with probability {probability:g}, which several ranks do not "
                "support: set workers to 1, or the probability to zero by model.image.model_args or model.image.lora.dropout "
                "(which trains new experts)"
            )
