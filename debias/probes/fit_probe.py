"""Making a probe: a small network from scratch, or a logistic regression on features that another model gives."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..core.error import DDMError
from .augmentation import augment
from .probe import Extractor, Probe, identity_of
from .probe_network import ProbeNetwork, check_images, image_tensor
from .typicality import Typicality

HELD_OUT = 0.2  # share of every class that a probe is measured on
COPIES = 3  # of every image, to learn what images of its kind are like

Progress = Callable[[int, int, float], None]  # step, of how many, loss


def fit_probe(
    images: np.ndarray,
    labels: Sequence[str],
    attribute: str,
    seed: int = 0,
    steps: int = 400,
    batch_size: int = 64,
    held_out: np.ndarray | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Probe:
    """Train a small network from scratch to tell the classes apart.

    It is trained twice: on four fifths of the images, to measure it on the rest, and then on all of them; the second
    is returned, with the measurement of the first. Classes are drawn equally often however rare they are.

    Args:
        images: uint8 [N, H, W, 3].
        labels: N class names.
        attribute: what they are classes of.
        seed: of the split, the initialisation, the draws and the augmentation.
        steps: optimiser steps of each training.
        batch_size: images per step.
        held_out: bool [N], images to measure on, to choose them other than at random (such as whole concepts).
        device: where to train.
        progress: called as progress(step, of, loss) after every tenth step, counting both trainings.

    Returns:
        The probe, on `device`.

    Raises:
        DDMError: fewer than two classes, a class of one image, or images of another kind.
    """
    check_images(images)
    names, truth = _classes(labels, attribute, len(images))
    held_out = hold_out(truth, HELD_OUT, seed) if held_out is None else _checked(held_out, truth, names)
    tensors = image_tensor(images)

    def trained(chosen: np.ndarray, done: int) -> Probe:
        report = None if progress is None else lambda step, loss: progress(done + step, 2 * steps, loss)
        network, head = _train(tensors[chosen], truth[chosen], len(names), seed, steps, batch_size, device, report)
        return Probe(names, attribute, head, network)

    measured = trained(~held_out, 0)
    measured.measure(measured.features(images[held_out]), truth[held_out])
    probe = trained(np.ones(len(images), dtype=bool), steps)
    probe.adopt_measurement(measured)
    probe.typicality = typicality_of(probe, tensors, held_out, seed)
    return probe


def typicality_of(probe: Probe, images: torch.Tensor, kept: np.ndarray, seed: int = 0) -> Typicality:
    """Which images a network was made for, from these and augmented copies: what a generator makes is like them too.

    Args:
        probe: with a network.
        images: float [N, 3, 64, 64] in 0…1.
        kept: bool [N], those that the limit is found on.
        seed: of the augmentation.
    """
    draws, device = torch.Generator().manual_seed(seed), probe.head.weight.device

    def described(chosen: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = images[chosen].split(256)
            copies = [*parts, *(augment(part, draws) for _ in range(COPIES) for part in parts)]
            return torch.cat([probe.network.look(part.to(device))[1].cpu() for part in copies]).double().numpy()

    return Typicality.fit(described(~kept), described(kept))


def fit_linear_probe(
    images: np.ndarray,
    labels: Sequence[str],
    attribute: str,
    extractor: Extractor,
    seed: int = 0,
    held_out: np.ndarray | None = None,
) -> Probe:
    """Fit a logistic regression on features that an extractor (such as CLIP's image encoder) gives.

    Args, return value and errors as in `fit_probe`; `extractor` stays with the probe, and files record its `identity`.
    """
    from sklearn.linear_model import LogisticRegression

    check_images(images)
    names, truth = _classes(labels, attribute, len(images))
    held_out = hold_out(truth, HELD_OUT, seed) if held_out is None else _checked(held_out, truth, names)
    features = np.asarray(extractor(images), dtype=np.float64)
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6

    def fitted(chosen: np.ndarray) -> Probe:
        model = LogisticRegression(class_weight="balanced", max_iter=2000)
        model.fit((features[chosen] - centre) / spread, truth[chosen])
        weight, bias = model.coef_, model.intercept_
        if len(names) == 2:  # scikit-learn keeps one row of log-odds
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        head = nn.Linear(features.shape[1], len(names))
        weight = weight / spread
        head.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias - weight @ centre)})
        return Probe(names, attribute, head, None, extractor, identity_of(extractor))

    measured = fitted(~held_out)
    measured.measure(features[held_out], truth[held_out])
    probe = fitted(np.ones(len(images), dtype=bool))
    probe.adopt_measurement(measured)
    probe.typicality = Typicality.fit(features[~held_out], features[held_out])
    return probe


def _train(
    images: torch.Tensor,
    truth: np.ndarray,
    classes: int,
    seed: int,
    steps: int,
    batch_size: int,
    device: str | torch.device,
    report: Callable[[int, float], None] | None,
) -> tuple[ProbeNetwork, nn.Linear]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ProbeNetwork()
        head = nn.Linear(network.width, classes)
    network.to(device, memory_format=torch.channels_last).train()
    head.to(device)
    draws = torch.Generator().manual_seed(seed)
    target = torch.from_numpy(truth)
    share = 1.0 / torch.bincount(target, minlength=classes).double()[target]
    parameters = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    for step in range(1, steps + 1):
        chosen = torch.multinomial(share, batch_size, replacement=True, generator=draws)
        drawn = augment(images[chosen].to(device), draws).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(head(network(drawn)), target[chosen].to(device), label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if report is not None and (step % 10 == 0 or step == steps):
            report(step, float(loss.detach()))
    return network, head


def _classes(labels: Sequence[str], attribute: str, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    if len(labels) != count:
        raise DDMError(f"There are {count} images but {len(labels)} labels for {attribute}. Give one label per image.")
    names, truth, counts = np.unique(np.asarray(labels, dtype=str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        found = f"only “{names[0]}”" if len(names) else "none"
        raise DDMError(f"A probe needs at least two classes to tell apart, but {attribute} has {found}.")
    if counts.min() < 2:
        rare = ", ".join(f"“{name}”" for name in names[counts < 2])
        raise DDMError(
            f"The probe for {attribute} has one image only of {rare}: none would be left to measure it on. "
            "Add images of it, or remove the class."
        )
    return tuple(str(name) for name in names), truth.astype(np.int64)


def hold_out(truth: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A fifth of every class, at least one image of each."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(truth), dtype=bool)
    for index in range(truth.max() + 1):
        members = rng.permutation(np.flatnonzero(truth == index))
        chosen[members[: max(1, round(share * len(members)))]] = True
    return chosen


def _checked(held_out: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> np.ndarray:
    held_out = np.asarray(held_out, dtype=bool)
    unseen = [name for index, name in enumerate(names) if not (truth[~held_out] == index).any()]
    if unseen or not held_out.any():
        reason = f"leaves no image of {', '.join(unseen)} to learn from" if unseen else "is empty"
        raise DDMError(f"The choice of held-out images {reason}. Hold out other ones.")
    return held_out
