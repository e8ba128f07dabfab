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
from .probe_network import SIZE, ProbeNetwork, check_images, fit_tensor, image_tensor
from .typicality import Typicality

VERSION = "1"
_WIDEST = 1 << 16  # features

Extractor = Callable[
    [np.ndarray], np.ndarray
]  # uint8 [N, H, W, 3] → [N, D]; its `identity` (str) names the model behind it


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
                "passes. Train one on images instead, without CLIP."
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
            raise DDMError(f"{path} is not a probe. Choose another file, or train one on labelled images.")
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
            raise DDMError(f"{path} is not a complete probe ({error}). Train it again.") from error
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
