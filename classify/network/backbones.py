"""Backbones by name (torchvision's classification models, narrower ResNets, timm's, and three convolutions)."""

import warnings
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import DenseNet, get_model, get_model_weights, list_models
from torchvision.models.inception import InceptionAux
from torchvision.models.resnet import BasicBlock

from classify.network import subcell
from classify.network.tokens import ANY_SIZE, TokenMap
from classify.own_code import describe, is_code, load_function
from hpa.errors import UserError

TIMM: Final = "timm:"
SHIPPED: Final = "resnet18_half"
"""The backbone that Cellwise ships weights of (`classify.network.pretrained`)."""

_SMALL: Final = "cnn3"
_WIDTHS: Final = {SHIPPED: 32, "resnet18_w40": 40, "resnet18_w48": 48}
_HEADS: Final = ("avgpool", "maxpool_head", "dropout", "fc", "classifier", "head", "heads", "flatten")


def new_backbone(name: str) -> nn.Sequential:
    """Return a backbone of three input channels with random weights, up to its last feature map.

    Its weights keep the names that the library gives them. torchvision's models become a chain of their layers, so
    that attention can be inserted between them.

    Parameters
    ----------
    name
        `ClassifySection.backbone`.

    Returns
    -------
    Sequential
        Maps (N, 3, H, W) to a feature map (N, F, h, w).

    Raises
    ------
    UserError
        If there is no such model, it does not end in a feature map, it is one of timm's and timm is not installed, or
        it is a function of the user that cannot be called (`classify.own_code`).
    """
    if is_code(name):
        return nn.Sequential(OrderedDict(model=_own_model(name)))
    if name == _SMALL:
        return _three_convolutions()
    if name in _WIDTHS:
        return resnet18(_WIDTHS[name])
    if name == subcell.NAME:
        return subcell.new_subcell()
    if name.startswith(TIMM):
        return nn.Sequential(OrderedDict(model=_timm_model(name.removeprefix(TIMM), pretrained=False)))
    if name not in list_models(module=models):
        own = ", ".join(f"`{known}`" for known in (*_WIDTHS, subcell.NAME))
        raise UserError(f"expected a torchvision model, `timm:NAME`, {own} or `{_SMALL}` as backbone, found {name!r}")
    # Without these options the two models warn about slow initialisation and have auxiliary heads for training.
    options = {"aux_logits": False, "init_weights": True} if name in ("inception_v3", "googlenet") else {}
    backbone = _layers_before_pooling(get_model(name, weights=None, **options))
    if feature_map_shape(backbone) is None:
        raise UserError(f"expected a backbone that ends in a feature map, found {name}, which does not")
    return backbone


def resnet18(width: int) -> nn.Sequential:
    """Return a ResNet18 (He et al. 2016, https://arxiv.org/abs/1512.03385) of another width, up to its feature map.

    Parameters
    ----------
    width
        Channels of the first stage; each of the other three doubles them. 64 is torchvision's ResNet18, whose names of
        weights it has; 32 needs a quarter of its multiplications.

    Returns
    -------
    Sequential
        Maps (N, 3, H, W) to (N, 8 width, H / 32, W / 32).
    """
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)),
        ("bn1", nn.BatchNorm2d(width)),
        ("relu", nn.ReLU(inplace=True)),
        ("maxpool", nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    before = width
    for stage in range(4):
        after = width * 2**stage
        first = BasicBlock(before, after)
        if stage:
            shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))
            first = BasicBlock(before, after, 2, shortcut)
        layers.append((f"layer{stage + 1}", nn.Sequential(first, BasicBlock(after, after))))
        before = after
    chain = nn.Sequential(OrderedDict(layers))
    for layer in chain.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return chain


def _three_convolutions() -> nn.Sequential:
    """Return the plain network of the oldest baselines: three times convolution, ReLU and 2 x 2 maximum pooling."""
    layers: list[tuple[str, nn.Module]] = []
    width = 3
    for i, filters in enumerate((32, 64, 128), start=1):
        layers += [(f"conv{i}", nn.Conv2d(width, filters, 3, padding=1)), (f"relu{i}", nn.ReLU(inplace=True))]
        layers += [(f"pool{i}", nn.MaxPool2d(2))]
        width = filters
    return nn.Sequential(OrderedDict(layers))


def _own_model(name: str) -> nn.Module:
    """Return the backbone that a function of the user builds."""
    build = load_function(name)
    try:
        model = build()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(f"expected a backbone from {name}, found {describe(error)}") from None
    if not isinstance(model, nn.Module):
        raise UserError(f"expected a torch module from {name}, found {type(model).__name__}")
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        raise UserError(f"expected a backbone with a convolution, its stem, from {name}, found none")
    if feature_map_shape(model) is None:
        raise UserError(f"expected a backbone from {name} that turns (N, 3, H, W) into a feature map, found another")
    return model


def _timm_model(name: str, *, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"expected timm to be installed for `{TIMM}{name}` (the extra cellwise[timm])") from None

    def build(options: dict[str, Any]) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="", **options)
        return TokenMap(model) if options else model

    try:
        for options in (*ANY_SIZE, {}):
            try:
                model = build(options)
            except TypeError:  # this kind of model does not know the option
                continue
            if feature_map_shape(model) is not None:
                break
    except RuntimeError as error:
        raise UserError(f"expected a model of timm, found {name!r} ({_first_line(error)})") from None
    except Exception as error:  # the hub and its client raise many kinds of errors
        raise UserError(f"expected timm's weights of {name} to be downloadable, found {_first_line(error)}") from None
    if feature_map_shape(model) is None:
        raise UserError(f"expected a backbone that ends in a feature map, found {TIMM}{name}, which does not")
    return model


def _layers_before_pooling(model: nn.Module) -> nn.Sequential:
    """Return the chain of a torchvision model's modules before its last pooling."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in model.named_children():
        if name in _HEADS:
            break
        if isinstance(child, InceptionAux) or name.startswith("aux"):
            continue
        layers[name] = child
    if isinstance(model, DenseNet):  # its forward method applies this ReLU, which is not one of its modules
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def feature_map_shape(model: nn.Module) -> tuple[int, int, int] | None:
    """Return the shape (F, h, w) of a model's output for an image of 128 px, None if that is not a feature map."""
    training = model.training
    try:
        with torch.inference_mode():
            out = model.eval()(torch.zeros(1, 3, 128, 128))
    except (RuntimeError, NotImplementedError, AssertionError, ValueError, TypeError):
        return None
    finally:
        model.train(training)
    if not isinstance(out, Tensor) or out.ndim != 4:
        return None
    return int(out.shape[1]), int(out.shape[2]), int(out.shape[3])


def has_depthwise_convolutions(name: str) -> bool:
    """Return whether a backbone convolves channels in groups, which bfloat16 makes slower on processors."""
    return _any_depthwise(name) if is_code(name) else _any_depthwise_of_library(name)


def _any_depthwise(name: str) -> bool:
    with torch.random.fork_rng(devices=[]):
        return any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in new_backbone(name).modules())


_any_depthwise_of_library: Final = cache(_any_depthwise)


def library_weights(name: str) -> dict[str, Any]:
    """Return the library's ImageNet weights of a backbone, from the disk or downloaded.

    Raises
    ------
    UserError
        If there are none (cnn3), they are neither on the disk nor downloadable, or the file is damaged.
    """
    if name in (_SMALL, subcell.NAME, *_WIDTHS) or is_code(name):
        raise UserError(f"expected a backbone with ImageNet weights, found {name}, of which there are none")
    if name.startswith(TIMM):
        model = _timm_model(name.removeprefix(TIMM), pretrained=True)
        return {f"model.{key}": value for key, value in model.state_dict().items()}
    weights = next(iter(get_model_weights(name)))  # every classification network of torchvision has some
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise UserError(
            f"expected the ImageNet weights {weights.url} to be downloadable or in {file} (put them there, or set"
            f' classify.pretrained = "none"), found neither ({_first_line(error)})'
        ) from None
    except Exception as error:  # a damaged file raises many kinds of errors
        raise UserError(f"expected ImageNet weights in {file}, found a damaged file ({_first_line(error)})") from None
    return state


def read_weights(path: Path) -> dict[str, Any]:
    """Read a file of weights; code in it is not executed.

    Raises
    ------
    UserError
        If there is no such file, or it contains anything but weights.
    """
    if not path.is_file():
        raise UserError(f"expected a file of weights, found no {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns about pickles that it then rejects
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"expected weights in {path}, found another or a damaged file ({_first_line(error)})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"expected tensors by name in {path}, found something else")
    return state


def load_weights(backbone: nn.Sequential, state: dict[str, Any], name: str) -> Tensor:
    """Load weights into a backbone of three channels; weights of the heads, which it lacks, are ignored.

    Parameters
    ----------
    backbone
        The backbone, changed in place.
    state
        Weights by name. The stem may have any number of channels.
    name
        Name of the backbone for the error message.

    Returns
    -------
    Tensor
        The filters of the stem, shape (F, C, h, w); with other than three channels they are not loaded.

    Raises
    ------
    UserError
        If a weight is missing or has another shape.
    """
    own = backbone.state_dict()
    stem = next(f"{key}.weight" for key, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d))
    fitted, filters = dict(state), state.get(stem)
    if isinstance(filters, Tensor) and filters.ndim == 4 and filters[:, :1].shape == own[stem][:, :1].shape:
        fitted[stem] = filters if filters.shape == own[stem].shape else own[stem]
    missing = [key for key in own if key not in fitted and not key.endswith("num_batches_tracked")]
    mismatched = [key for key in own if key in fitted and fitted[key].shape != own[key].shape]
    if missing or mismatched:
        raise UserError(
            f"expected weights of {name}, found {len(missing)} of {len(own)} missing and {len(mismatched)} of another"
            f" shape ({', '.join((missing + mismatched)[:3])})"
        )
    backbone.load_state_dict({key: fitted[key] for key in own if key in fitted}, strict=False)
    loaded: Tensor = state[stem]
    return loaded


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
