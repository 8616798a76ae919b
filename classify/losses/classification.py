"""The class losses: of single crops and classes, and of a whole batch.

Every loss gets the same `Entries` and returns either a loss for each crop and class, shape (N, K), which is averaged
with their weights, or a scalar that it has computed of the whole batch: an F1 or a Jaccard index is no mean over
crops. A loss of the user (`classify.own_code`) does either. All leave out unknown classes, whose weight is 0, and
count a crop of weight three as three crops.

=================== ===============================================================================================
bce                 binary cross-entropy
focal               cross-entropy times (1 - q)^gamma, q the probability of the true state
                    (Lin et al. 2017, https://arxiv.org/abs/1708.02002)
asymmetric          focal, with an exponent for negatives of its own and their probability lowered by a margin
                    (Ridnik et al. 2021, https://arxiv.org/abs/2009.14119)
soft-f1-macro       1 - the mean over classes of F1 with probabilities in place of predictions; classes without a
                    positive in the batch have no F1 and do not count
soft-f1-samples     the same with F1 of each crop's classes
log-soft-f1-...     -log of that mean in place of 1 - mean
lovasz              mean over classes of the Lovasz hinge (Berman et al. 2018, https://arxiv.org/abs/1705.08790: a
                    convex bound of 1 - the Jaccard index) of the positives and of the negatives
hard-bce            cross-entropy of a class's P positives and min(P + max(2, N / 2), 2 + 0.7 N) hardest of its N
                    negatives, as the winner of the 2018 competition used it
=================== ===============================================================================================
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, relu
from torchvision.ops import sigmoid_focal_loss

from classify.config import ClassifySection
from classify.data.crops import FoldCrops
from classify.own_code import describe, is_code, load_function
from hpa.errors import UserError

_TINY: Final = torch.finfo(torch.float32).tiny
_LEAST_F1: Final = 1e-7  # added to an F1 before its logarithm


class Entries(NamedTuple):
    """What a class loss is computed of, for N crops or images and K classes; all float32."""

    logits: Tensor
    """Shape (N, K)."""
    hot: Tensor
    """Shape (N, K), 0..1, and 0 where unknown."""
    smoothed: Tensor
    """Shape (N, K), `hot` after label smoothing."""
    weights: Tensor
    """Shape (N, K), weight of the row, and 0 where the class is unknown."""
    classes: Tensor
    """Shape (K,), weight of each class."""


def class_loss(
    logits: Tensor,
    targets: Tensor,
    section: ClassifySection,
    weights: Tensor | None = None,
    classes: Tensor | None = None,
) -> Tensor:
    """Compute the recipe's class loss: the weighted sum of its terms.

    Parameters
    ----------
    logits, targets
        Shape (N, K) each; targets are NaN where unknown, and those entries do not count. Logits of any floating type
        are computed in float32, since a half-precision sigmoid saturates.
    section
        Recipe section: choice of the loss.
    weights
        Weight of each row, shape (N,); None weighs all rows equally.
    classes
        Weight of each class, shape (K,) (`class_weights`); None weighs all classes equally.

    Returns
    -------
    Tensor
        Scalar, float32; a differentiable zero if no target is known.
    """
    known = (~targets.isnan()).float()
    hot = targets.float().nan_to_num()
    s = section.label_smoothing
    entries = Entries(
        logits.float(),
        hot,
        hot * (1 - s) + s / 2 if s else hot,
        known if weights is None else weights.float()[:, None] * known,
        logits.new_ones(logits.shape[1], dtype=torch.float32) if classes is None else classes.to(logits.device),
    )
    terms = [term.weight * _of_batch(_term(term.name, entries, section), entries) for term in section.loss_terms]
    return torch.stack(terms).sum()


def _term(name: str, entries: Entries, section: ClassifySection) -> Tensor:
    return _own(name, entries) if is_code(name) else _LOSSES[name](entries, section)


def _own(name: str, entries: Entries) -> Tensor:
    """Compute a loss of the user, and check what it returns."""
    function = load_function(name)
    try:
        loss = function(entries.logits, entries.smoothed, entries.weights * entries.classes)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(f"expected a loss from {name}, found {describe(error)}") from None
    shape = tuple(entries.logits.shape)
    if not isinstance(loss, Tensor):
        raise UserError(f"expected a tensor from {name}, found {type(loss).__name__}")
    if loss.shape not in ((), shape):
        raise UserError(f"expected a scalar or a loss of the shape {shape} from {name}, found {tuple(loss.shape)}")
    return loss.float()


def _of_batch(loss: Tensor, entries: Entries) -> Tensor:
    return loss if loss.ndim == 0 else _average(loss, entries.weights * entries.classes)


def _average(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=_TINY)


def _bce(entries: Entries, _: ClassifySection) -> Tensor:
    return binary_cross_entropy_with_logits(entries.logits, entries.smoothed, reduction="none")


def _focal(entries: Entries, section: ClassifySection) -> Tensor:
    z, t, gamma, alpha = entries.logits, entries.smoothed, section.focal_gamma, section.focal_alpha
    if gamma == 0 or gamma >= 1:
        losses: Tensor = sigmoid_focal_loss(z, t, alpha=alpha, gamma=gamma, reduction="none")
        return losses
    # torchvision's power has an infinite derivative where 1 - q rounds to 0, which makes the gradient NaN.
    wrong = (t * torch.sigmoid(-z) + (1 - t) * torch.sigmoid(z)).clamp(min=1e-30)
    losses = wrong**gamma * binary_cross_entropy_with_logits(z, t, reduction="none")
    return losses if alpha < 0 else losses * (alpha * t + (1 - alpha) * (1 - t))


def _asymmetric(entries: Entries, section: ClassifySection) -> Tensor:
    z, t, margin = entries.logits, entries.smoothed, section.asymmetric_margin
    positive_gamma, negative_gamma = section.asymmetric_gammas
    lowered = (torch.sigmoid(z) - margin).clamp(min=0)
    log_negative = torch.log((torch.sigmoid(-z) + margin).clamp(max=1)) if margin else logsigmoid(-z)
    positive = torch.sigmoid(-z).clamp(min=1e-30) ** positive_gamma * logsigmoid(z)
    return -t * positive - (1 - t) * lowered.clamp(min=1e-30) ** negative_gamma * log_negative


def _soft_f1(entries: Entries, *, samples: bool, log: bool) -> Tensor:
    p, t = torch.sigmoid(entries.logits), entries.hot
    weights = entries.weights * entries.classes if samples else entries.weights
    over = 1 if samples else 0
    hits, positives = (weights * p * t).sum(over), (weights * t).sum(over)
    f1 = 2 * hits / ((weights * p).sum(over) + positives).clamp(min=_TINY)
    counted = (entries.weights.amax(1) if samples else entries.classes) * (positives > 0)
    mean = _average(f1, counted)
    return (-torch.log(mean + _LEAST_F1) if log else 1 - mean) * counted.any()


def _lovasz(entries: Entries, _: ClassifySection) -> Tensor:
    positive = (entries.hot > 0.5).float()
    both = _lovasz_hinge(entries.logits, positive, entries.weights)
    both = both + _lovasz_hinge(-entries.logits, 1 - positive, entries.weights)
    return _average(both / 2, entries.classes * (entries.weights > 0).any(0))


def _lovasz_hinge(logits: Tensor, positive: Tensor, weights: Tensor) -> Tensor:
    """Return the Lovasz hinge of each class, shape (K,)."""
    errors = 1 - logits * (2 * positive - 1)
    order = errors.detach().argsort(dim=0, descending=True, stable=True)
    hits, misses = (weights * positive).gather(0, order), (weights * (1 - positive)).gather(0, order)
    union = hits.sum(0) + misses.cumsum(0)
    # 1 - the Jaccard index if the crops up to each, by falling error, are wrong.
    lost = torch.where(union > 0, hits.cumsum(0) + misses.cumsum(0), 0) / union.clamp(min=_TINY)
    steps = lost.diff(dim=0, prepend=torch.zeros_like(lost[:1]))
    return (relu(errors.gather(0, order)) * steps).sum(0)


def _hard_bce(entries: Entries, section: ClassifySection) -> Tensor:
    losses = _bce(entries, section)
    positive = entries.hot > 0.5
    positives, negatives = entries.weights * positive, entries.weights * ~positive
    p, n = positives.sum(0), negatives.sum(0)
    hard = torch.minimum(torch.minimum(n, p + (n / 2).floor().clamp(min=2)), 2 + (0.7 * n).floor())
    order = losses.detach().masked_fill(positive, -torch.inf).argsort(dim=0, descending=True, stable=True)
    before = negatives.gather(0, order).cumsum(0) - negatives.gather(0, order)
    # Of a row whose weight exceeds what is left of the number, only that part counts.
    part = torch.minimum((hard - before).clamp(min=0), negatives.gather(0, order))
    counted = positives.scatter_add(0, order, part)
    total = counted.sum(0)
    return _average((counted * losses).sum(0) / total.clamp(min=_TINY), entries.classes * (total > 0))


_LOSSES: Final[Mapping[str, Callable[[Entries, ClassifySection], Tensor]]] = {
    "bce": _bce,
    "focal": _focal,
    "asymmetric": _asymmetric,
    "soft-f1-macro": lambda entries, _: _soft_f1(entries, samples=False, log=False),
    "soft-f1-samples": lambda entries, _: _soft_f1(entries, samples=True, log=False),
    "log-soft-f1-macro": lambda entries, _: _soft_f1(entries, samples=False, log=True),
    "log-soft-f1-samples": lambda entries, _: _soft_f1(entries, samples=True, log=True),
    "lovasz": _lovasz,
    "hard-bce": _hard_bce,
}


def class_weights(section: ClassifySection, crops: FoldCrops) -> Tensor | None:
    """Return the weights of the classes in the loss of a fold's model.

    Parameters
    ----------
    section
        Recipe section: ``class_weights``. With n the number of training images that have a class, ``"inverse"`` is
        1 / n, and ``"effective"`` (1 - beta) / (1 - beta^n) (Cui et al. 2019, https://arxiv.org/abs/1901.05555). A
        class that no image has, for which neither is defined, has the mean weight of the others.
    crops
        Crops of the fold.

    Returns
    -------
    Tensor or None
        Shape (K,), float32, with mean 1; None if all classes weigh the same.

    Raises
    ------
    UserError
        If the recipe lists weights of another number of classes.
    """
    chosen, labels = section.class_weights, crops.labels
    if chosen == "none":
        return None
    if isinstance(chosen, tuple):
        check_class_weights(section, labels.targets.shape[1])
        weights = np.array(chosen, dtype=np.float64)
    else:
        # With labels of cells, an image has what any of its cells has.
        images, image = np.unique(labels.images[crops.training], return_inverse=True)
        hot = np.zeros((len(images), labels.targets.shape[1]), dtype=bool)
        np.logical_or.at(hot, image, labels.targets[crops.training] & labels.known[crops.training])
        counts = hot.sum(axis=0)
        n, beta = counts.clip(min=1), section.effective_beta
        weights = 1 / n if chosen == "inverse" else (1 - beta) / (1 - beta**n)
        if counts.any():
            weights[counts == 0] = weights[counts > 0].mean()
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def check_loss(section: ClassifySection, classes: int) -> None:
    """Check the class weights of a recipe and run the losses of the user once, on a batch with unknown classes.

    Raises
    ------
    UserError
        If the number of weights is not that of the classes, a loss of the user cannot be loaded or raises an error,
        what it returns has another shape, is not finite or has no finite gradient, or unknown classes count in it.
    """
    check_class_weights(section, classes)
    draw = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(8, classes, generator=draw)).requires_grad_()
    hot = (torch.rand(8, classes, generator=draw) < 0.5).float()
    weights = torch.ones(8, classes)
    weights[0, -1] = weights[5] = 0
    hot = hot * weights
    entries = Entries(logits, hot, hot, weights, torch.ones(classes))
    for name in (term.name for term in section.loss_terms if is_code(term.name)):
        loss = _of_batch(_own(name, entries), entries)
        if not loss.isfinite():
            raise UserError(f"expected a finite loss from {name}, found {loss.item()} on a batch drawn at random")
        if not loss.requires_grad:
            raise UserError(f"expected a loss that depends on the logits from {name}, found one without a gradient")
        (gradient,) = torch.autograd.grad(loss, logits)
        if not gradient.isfinite().all():
            raise UserError(f"expected a finite gradient of {name}, found one that is not, on a batch drawn at random")
        if (gradient[weights == 0] != 0).any():
            raise UserError(f"expected {name} to leave out entries of weight 0, found that they have a gradient")


def check_class_weights(section: ClassifySection, classes: int) -> None:
    """Check that a list of class weights has one for each class.

    Raises
    ------
    UserError
        If it has not.
    """
    chosen = section.class_weights
    if isinstance(chosen, tuple) and len(chosen) != classes:
        raise UserError(f"expected classify.class_weights for {classes} classes, found {len(chosen)} numbers")
