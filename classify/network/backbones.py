"""Backbones by name: torchvision's classification models, timm's, and three convolutions; and their weights."""

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, get_model, get_model_weights, list_models
from torchvision.models.inception import InceptionAux

from hpa.errors import UserError

TIMM: Final = "timm:"
_SMALL: Final = "cnn3"
_HEADS: Final = ("avgpool", "maxpool_head", "dropout", "fc", "classifier", "head", "heads", "flatten")


def new_backbone(name: str) -> nn.Sequential:
    """Make a backbone of three input channels with random weights, up to its last feature map.

    Its weights keep the names that the library gives them. torchvision's models are taken apart into a chain, so that
    attention can be put between the links.

    Parameters
    ----------
    name
        `ClassifySection.backbone`.

    Returns
    -------
    Sequential
        From (N, 3, H, W) to a feature map (N, F, h, w).

    Raises
    ------
    UserError
        If there is no such model, or it does not end in a feature map, or timm is asked for and not installed.
    """
    if name == _SMALL:
        return _three_convolutions()
    if name.startswith(TIMM):
        return nn.Sequential(OrderedDict(model=_timm_model(name.removeprefix(TIMM), pretrained=False)))
    if name not in list_models(module=torch_models()):
        raise UserError(f"expected a torchvision model, `timm:NAME` or `{_SMALL}` as backbone, found {name!r}")
    # These two otherwise tell at length that they fill their weights slowly, and have heads only training uses.
    options = {"aux_logits": False, "init_weights": True} if name in ("inception_v3", "googlenet") else {}
    model = get_model(name, weights=None, **options)
    chain = _chain(model)
    if feature_map(chain) is None:
        raise UserError(f"expected a backbone that ends in a feature map, found {name}, which does not")
    return chain


def torch_models() -> Any:
    """Return the module that has torchvision's classification models, and none for detection or video."""
    import torchvision.models

    return torchvision.models


def _three_convolutions() -> nn.Sequential:
    """Make the plain network of the oldest baselines: three times convolution, ReLU and maximum of 2 x 2."""
    links: list[tuple[str, nn.Module]] = []
    width = 3
    for i, filters in enumerate((32, 64, 128), start=1):
        links += [(f"conv{i}", nn.Conv2d(width, filters, 3, padding=1)), (f"relu{i}", nn.ReLU(inplace=True))]
        links += [(f"pool{i}", nn.MaxPool2d(2))]
        width = filters
    return nn.Sequential(OrderedDict(links))


def _timm_model(name: str, *, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"expected timm to be installed for `{TIMM}{name}` (the extra cellwise[timm])") from None
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")
    except RuntimeError as error:
        raise UserError(f"expected a model of timm, found {name!r} ({_first_line(error)})") from None
    except Exception as error:  # hubs and their clients fail in many ways
        raise UserError(f"expected timm's weights of {name} to be downloadable, found {_first_line(error)}") from None
    if feature_map(model) is None:
        raise UserError(f"expected a backbone that ends in a feature map, found {TIMM}{name}, which does not")
    return model


def _chain(model: nn.Module) -> nn.Sequential:
    """Take a torchvision model apart into the chain of its modules before the last pooling."""
    links: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in model.named_children():
        if name in _HEADS:
            break
        if isinstance(child, InceptionAux) or name.startswith("aux"):
            continue
        links[name] = child
    if isinstance(model, DenseNet):  # it has this one in its forward function
        links["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(links)


def feature_map(model: nn.Module) -> tuple[int, int, int] | None:
    """Return the shape (F, h, w) that a model makes of a frame of 128 px, None if that is not a feature map."""
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


def library_state(name: str) -> dict[str, Any]:
    """Return the library's ImageNet weights of a backbone, from the disk or downloaded.

    Raises
    ------
    UserError
        If there are none, they are neither on the disk nor to be downloaded, or the file is damaged.
    """
    if name == _SMALL:
        raise UserError(f"expected pretrained weights, found that there are none of {_SMALL}")
    if name.startswith(TIMM):
        model = _timm_model(name.removeprefix(TIMM), pretrained=True)
        return {f"model.{key}": value for key, value in model.state_dict().items()}
    weights = next(iter(get_model_weights(name)), None)
    if weights is None:
        raise UserError(f"expected ImageNet weights of {name} in torchvision, found none")
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise UserError(
            f"expected the ImageNet weights {weights.url} to be downloadable or in {file} (put them there, or set"
            f" classify.pretrained = false), found neither ({_first_line(error)})"
        ) from None
    except Exception as error:  # a damaged file fails in as many ways as it can be damaged
        raise UserError(f"expected ImageNet weights in {file}, found a damaged file ({_first_line(error)})") from None
    return state


def file_state(path: Path) -> dict[str, Any]:
    """Return the weights in a file; code that hides in it is not run.

    Raises
    ------
    UserError
        If there is no such file, or it holds anything but weights.
    """
    if not path.is_file():
        raise UserError(f"expected a file of weights, found no {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch muses about pickles that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"expected weights in {path}, found another or a damaged file ({_first_line(error)})") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"expected tensors by name in {path}, found something else")
    return state


def fill(backbone: nn.Sequential, state: dict[str, Any], what: str) -> None:
    """Put weights into a backbone of three channels; those of heads, which it has not, are left out.

    Raises
    ------
    UserError
        If a weight is missing, or has another shape.
    """
    own = backbone.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    odd = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or odd:
        raise UserError(
            f"expected weights of {what}, found {len(missing)} of {len(own)} missing and {len(odd)} of another shape"
            f" ({', '.join((missing + odd)[:3])})"
        )
    backbone.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
