"""Probes: who is in an image, as perceived.

A probe gives class probabilities for images and knows how often it is wrong: its confusion matrix was measured on
images that it had not seen, so that a report can correct for it and print it. It says what an image looks like to
whoever labelled the training images; it says nothing about who a person is.
"""

import os
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..core.error import DDMError
from ..core.io import fill, load_tensors, save_tensors
from ..core.strict_json import fits, read_fields, write_json
from . import typicality
from .augmentation import augment
from .probe_network import SIZE, ProbeNetwork, check_images, fit_tensor, image_tensor
from .typicality import Typicality

VERSION = "1"
_WIDEST = 1 << 16  # features
HELD_OUT = 0.2  # share of every class that a probe is measured on
COPIES = 3  # of every image, to learn what images of its kind are like

Extractor = Callable[
    [np.ndarray], np.ndarray
]  # uint8 [N, H, W, 3] → [N, D]; its `identity` (str) names the model behind it
Progress = Callable[[int, int, float], None]  # step, of how many, loss


class Probe:
    """Class probabilities for images, with the measured reliability.

    Attributes:
        names: the K classes, sorted.
        attribute: what they are classes of, such as "gender".
        accuracy: share of held-out images that were recognised.
        confusion: float64 [K, K]; row = true class, column = recognised as, on held-out images; rows sum to 1.
        counts: int64 [K]; how many held-out images of each class it was measured on.
        temperature: what logits are divided by; calibrated on the held-out images.
        network: the network, or None for a linear probe over an extractor's features.
        extractor: gives the features of a linear probe; None for a network.
        identity: which extractor the linear probe was fitted on; "" for a network.
        typicality: which images are like those that it was made for; None where that is not known.
        made_for: what those images are, in words.
    """

    def __init__(
        self,
        names: Sequence[str],
        attribute: str,
        head: nn.Linear,
        network: ProbeNetwork | None = None,
        extractor: Extractor | None = None,
        identity: str = "",
    ):
        self.names = tuple(names)
        self.attribute = attribute
        self.head = head.eval().requires_grad_(False)
        self.network = None if network is None else network.eval().requires_grad_(False)
        self.extractor = extractor
        self.identity = identity
        self.temperature = 1.0
        self.accuracy = float("nan")
        self.confusion = np.full((len(self.names), len(self.names)), np.nan)
        self.counts = np.zeros(len(self.names), dtype=np.int64)
        self.typicality: Typicality | None = None
        self.made_for = ""

    @property
    def digest(self) -> str:
        """What tells probes apart (hex): one that is read again is the same if it says the same of every image."""
        parts = {"head": self.head} | ({"network": self.network} if self.network else {})
        tensors = {f"{part}.{name}": one for part, module in parts.items() for name, one in module.state_dict().items()}
        tensors |= {} if self.typicality is None else self.typicality.tensors()
        digest = blake2b(repr((self.attribute, self.names, self.identity, self.temperature)).encode(), digest_size=16)
        for name, one in tensors.items():
            digest.update(name.encode() + one.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: str | torch.device) -> "Probe":
        """Move the network to a device and return the probe."""
        self.head.to(device)
        if self.network is not None:
            self.network.to(device)
        return self

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, D] of float images [N, 3, H, W] in 0…1; differentiable in the images.

        Raises:
            DDMError: this is a linear probe, whose extractor takes finished images only (it has no `embed`).
        """
        if self.network is not None:
            return self.network(fit_tensor(images))
        if not hasattr(self.extractor, "embed"):
            raise DDMError(
                f"The probe for {self.attribute} reads the features of {self.identity}, through which no gradient "
                "passes. Train one on images instead: `ddm probe` without CLIP."
            )
        return self.extractor.embed(images)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Calibrated logits [N, K] of float images [N, 3, H, W] in 0…1; differentiable, errors as in `embed`."""
        return self.head(self.embed(images)) / self.temperature

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features float64 [N, D] that the classes are read from, for images uint8 [N, H, W, 3].

        Raises:
            DDMError: images of another kind or shape; a linear probe without its extractor.
        """
        return self.look(images)[0]

    def look(self, images: np.ndarray, prompts: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Features as `features`, and those [N, E] by which `typicality` tells images of another kind.

        Args:
            images: as for `features`.
            prompts: N, what they were asked to show, for the kinds of probes that look at that too.
        """
        check_images(images)
        self.check_extractor()
        if self.network is None:
            features = np.asarray(self.extractor(images), dtype=np.float64)
            if features.shape != (len(images), self.head.in_features):
                raise DDMError(
                    f"The probe for {self.attribute} needs {self.head.in_features} features per image, but "
                    f"{identity_of(self.extractor)} gives {list(features.shape[1:])}. "
                    f"Use {self.identity}, which it was made with."
                )
            return features, features
        device = self.head.weight.device
        with torch.inference_mode():
            # No image at all has features too, of shape [0, D].
            looked = [self.network.look(image_tensor(part, device)) for part in _parts(images) or [images]]
        return tuple(torch.cat(part).double().cpu().numpy() for part in zip(*looked, strict=True))

    def unlike(self, features: np.ndarray) -> np.ndarray:
        """Which images are unlike those that it was made for, bool [N], from the second that `look` gave."""
        return np.zeros(len(features), bool) if self.typicality is None else self.typicality.unlike(features)

    def check_extractor(self) -> None:
        """Refuse a linear probe whose extractor is not at hand."""
        if self.network is None and self.extractor is None:
            raise DDMError(
                f"The probe for {self.attribute} reads the features of {self.identity}, which is not at hand. "
                "Give the folder of that model, or train a probe without one.",
                "clip",
            )

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float64 [N, K], rows sum to 1, for images uint8 [N, H, W, 3]; errors as in `features`."""
        return self.predict_features(self.features(images))

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float64 [N, K] from what `features` gave, so that both cost one pass."""
        weight, bias = self.head.weight.double().cpu().numpy(), self.head.bias.double().cpu().numpy()
        logits = (features @ weight.T + bias) / self.temperature
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        return odds / odds.sum(axis=1, keepdims=True)

    def measure(self, features: np.ndarray, truth: np.ndarray) -> None:
        """Set temperature, accuracy, confusion and counts from held-out features [N, D] and class indices [N]."""
        self.temperature = 1.0
        logits = np.log(np.maximum(self.predict_features(features), 1e-300))
        self.temperature = calibrate(logits, truth)
        found = logits.argmax(axis=1)
        table = np.zeros((len(self.names), len(self.names)))
        np.add.at(table, (truth, found), 1)
        self.counts = table.sum(axis=1).astype(np.int64)
        self.confusion = table / np.maximum(self.counts, 1)[:, None]
        self.accuracy = float((truth == found).mean())

    def adopt_measurement(self, other: "Probe") -> None:
        """Take over what was measured with `other`, the same kind of probe fitted on a part of the images."""
        self.temperature, self.accuracy = other.temperature, other.accuracy
        self.confusion, self.counts = other.confusion, other.counts

    def save(self, path: str | os.PathLike) -> None:
        """Write the probe as safetensors, atomically. An extractor is named in it, not contained."""
        tensors = {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        architecture: dict[str, object] = {
            "kind": "linear",
            "identity": self.identity,
            "features": self.head.in_features,
        }
        if self.network is not None:
            tensors |= {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
            architecture = {"kind": "network", "width": self.network.width, "size": SIZE}
        if self.typicality is not None:
            tensors |= self.typicality.tensors()
        description = {
            "names": self.names,
            "attribute": self.attribute,
            "accuracy": self.accuracy,
            "confusion": self.confusion.tolist(),
            "counts": self.counts.tolist(),
            "temperature": self.temperature,
            "architecture": architecture,
            "made_for": self.made_for,
        }
        metadata = {f"ddm.{key}": write_json(value) for key, value in description.items()}
        save_tensors(path, tensors, metadata | {"ddm.kind": "probe", "ddm.version": VERSION})

    @classmethod
    def load(
        cls, path: str | os.PathLike, extractor: Extractor | None = None, device: str | torch.device = "cpu"
    ) -> "Probe":
        """Read a probe that `save` wrote.

        Args:
            path: the file.
            extractor: the feature extractor of a linear probe; it may be given later as `probe.extractor`.
            device: where the network shall run.

        Raises:
            DDMError: no such file, not safetensors, no probe, made by a later version, or another extractor.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("ddm.kind") != "probe":
            raise DDMError(f"{path} is not a probe. Make one with `ddm probe FOLDER --labels COLUMN --out FILE`.")
        if metadata.get("ddm.version") != VERSION:
            raise DDMError(
                f"{path} is a probe of format {metadata.get('ddm.version')}, and this version of ComfyUI-DDM reads "
                f"format {VERSION}. Update ComfyUI-DDM, or train the probe again."
            )
        try:
            given = read_fields(metadata, _FIELDS, "it")
            if missing := ", ".join(_FIELDS.keys() - given.keys() - {"made_for"}):
                raise DDMError(f"it does not say its {missing}")
            probe = _empty(cls, given)
            probe.typicality = _typicality(probe, tensors)
        except (DDMError, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise DDMError(f"{path} is not a complete probe ({error}). Train it again with `ddm probe`.") from error
        parts = nn.ModuleDict({"head": probe.head} | ({"network": probe.network} if probe.network else {}))
        fill(path, parts, {name: one for name, one in tensors.items() if not name.startswith(typicality.PREFIX)})
        network = probe.network
        parts.eval().requires_grad_(False)
        if network is None and extractor is not None:
            if identity_of(extractor) != probe.identity:
                raise DDMError(
                    f"{path} was made with {probe.identity}, but {identity_of(extractor)} was given. "
                    "Give the same model."
                )
            probe.extractor = extractor
        return probe.to(device)


_FIELDS = {
    "names": list[str],
    "attribute": str,
    "accuracy": float | None,
    "confusion": list[list[float | None]],
    "counts": list[int],
    "temperature": float,
    "architecture": dict[str, Any],
    "made_for": str,
}
# "CLIP", the name of a folder, and the beginning of a hash: it names a model, and is no path.
_IDENTITY = re.compile(r"[^/\\\x00-\x1f]{1,200}")


def _empty(kind: type[Probe], given: dict[str, Any]) -> Probe:
    """The probe that a file describes, on the device "meta"."""
    names, architecture, size = given["names"], given["architecture"], len(given["names"])
    if size < 2 or len(set(names)) < size:
        raise DDMError("it needs two different classes or more")
    if len(given["counts"]) != size or [len(row) for row in given["confusion"]] != [size] * size:
        raise DDMError("its confusion matrix has not one row and column for each class")
    confusion = np.array(given["confusion"], dtype=np.float64)
    shares = np.isnan(confusion) | ((confusion >= 0) & (confusion <= 1 + 1e-6))
    if not shares.all() or min(given["counts"]) < 0 or not given["temperature"] > 0:
        raise DDMError("a share, a count or its temperature is out of range")
    linear = architecture.get("kind") != "network"
    width, identity = architecture.get("features" if linear else "width"), architecture.get("identity", "")
    if not fits(width, int) or not 1 <= width <= _WIDEST:
        raise DDMError("the number of its features is out of range")
    if linear and not (isinstance(identity, str) and _IDENTITY.fullmatch(identity) and ".." not in identity):
        raise DDMError("it does not name the model whose features it reads")
    with torch.device("meta"):
        network = None if linear else ProbeNetwork(width)
        head = nn.Linear(width, size)
    probe = kind(names, given["attribute"], head, network, None, identity if linear else "")
    probe.temperature, probe.confusion = float(given["temperature"]), confusion
    probe.accuracy = float("nan") if given["accuracy"] is None else float(given["accuracy"])
    probe.counts = np.array(given["counts"], dtype=np.int64)
    probe.made_for = given.get("made_for", "")
    return probe


def _typicality(probe: Probe, tensors: dict[str, torch.Tensor]) -> Typicality | None:
    found, network = Typicality.from_tensors(tensors), probe.network
    wanted = probe.head.in_features if network is None else network.look_width
    if found is not None and len(found.mean) != wanted:
        raise DDMError("what it says of the images that it was made for is of another size")
    return found


def identity_of(extractor: Extractor) -> str:
    """The name of the model behind an extractor, as files record it."""
    return str(getattr(extractor, "identity", "an unnamed feature extractor"))


def calibrate(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature that makes held-out images most likely (Guo et al., 2017, arXiv 1706.04599).

    Args:
        logits: [N, K].
        truth: class indices [N].

    Returns:
        A temperature between 1/4 and 8: a probe that makes no mistake on a few images is not certain of everything.
    """
    candidates = np.geomspace(0.25, 8, 101)

    def loss(temperature: float) -> float:
        scaled = torch.from_numpy(logits / temperature)
        return float(F.cross_entropy(scaled, torch.from_numpy(truth)))

    return float(min(candidates, key=loss))


def _parts(images: np.ndarray, size: int = 256) -> list[np.ndarray]:
    return [images[start : start + size] for start in range(0, len(images), size)]


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
