"""A head on h-space: which class an image is going to show, read off the U-Net's middle while it is still noise.

This is the attribute distribution predictor (ADP) of arXiv 2402.18206: a linear map from the mid-block's output, one
for each of some timesteps. Between these it is interpolated, so that any number of steps will do.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..core.error import DDMError
from ..core.io import check_finite, load_tensors, save_tensors
from ..core.strict_json import read_fields, write_json
from ..probes.fit_probe import hold_out
from ..probes.probe import calibrate

KIND, VERSION = "head", "1"
TIMESTEPS = (25, 75, 150, 250, 350, 450, 550, 650, 750, 850, 950)
# Strength of the ridge penalty: the more features there are, the less each may count.
PENALTY = 0.5


class HSpaceClassifier:
    """Logits of classes at every timestep, and the direction in h-space that makes a class more likely.

    Attributes:
        names: the K classes.
        attribute: what they are classes of, such as "gender".
        timesteps: [T] ascending timesteps that it was fitted at.
        weight: [T, K, C, H, W] of the logits; H and W are those of the images it was fitted on.
        bias: [T, K].
        push: [T, K, C, H, W] what added to h raises a class: the gradient of its logit by the standardised h, as long
            as the classes lie apart, or the difference of their means; shorter where the head is less often right.
        accuracy: [T] share of held-out images that it tells right, every class counted alike.
        base_hash: of the base whose h-space it reads.
        words: by which a prompt says itself who is meant; the classes' names, if none are given.
    """

    def __init__(
        self,
        names: Sequence[str],
        attribute: str,
        timesteps: Sequence[int],
        weight: torch.Tensor,
        bias: torch.Tensor,
        push: torch.Tensor,
        accuracy: Sequence[float],
        base_hash: str = "",
        words: Sequence[str] | None = None,
    ):
        self.names, self.attribute, self.base_hash = tuple(names), attribute, base_hash
        self.words = tuple(names if words is None else words)
        self.timesteps, self.accuracy = tuple(timesteps), tuple(accuracy)
        self.weight, self.bias, self.push = weight, bias, push

    def logits(self, h: torch.Tensor, t: float) -> torch.Tensor:
        """Calibrated logits [B, K] of h [B, C, H, W] at timestep t.

        Raises:
            DDMError: h has other channels than the base that the head was fitted on.
        """
        self.check_channels(h.shape[1])
        weight = self._at(self.weight, t, h)
        # On a grid of another size, the same sum over cells.
        share = weight[0, 0].numel() / self.weight[0, 0, 0].numel()
        return h.float().flatten(1) @ weight.flatten(1).T / share + self._at(self.bias, t, h)

    def check_channels(self, channels: int) -> None:
        """Refuse a model of so many channels in the middle of its U-Net.

        Raises:
            DDMError: it has others than the base that the head was fitted on.
        """
        if channels != self.weight.shape[2]:
            raise DDMError(
                f"The head for {self.attribute} reads {self.weight.shape[2]} channels in the middle of the U-Net, and "
                f"this model has {channels} there. Use the model that the head was made with, or make a head for this "
                "one."
            )

    def shift(self, gradient: torch.Tensor, h: torch.Tensor, t: float) -> torch.Tensor:
        """What to add to h [B, C, H, W] so that a loss falls whose gradient by the logits is given [B, K]."""
        return -torch.einsum("bk,kchw->bchw", gradient, self._at(self.push, t, h))

    def _at(self, table: torch.Tensor, t: float, like: torch.Tensor) -> torch.Tensor:
        """The row of a table [T, …] at timestep t, on the device and the grid of h."""
        place = float(np.interp(t, self.timesteps, range(len(self.timesteps))))
        low = int(place)
        row = table[low]
        if place > low:
            row = torch.lerp(row, table[low + 1], place - low)
        row = row.to(like.device)
        if row.ndim == 4 and row.shape[2:] != like.shape[2:]:
            row = F.interpolate(row, like.shape[2:], mode="bilinear", antialias=True)
        return row

    def to(self, device: "str | torch.device") -> "HSpaceClassifier":
        """Move the tables to a device and return the head."""
        self.weight, self.bias, self.push = (part.to(device) for part in (self.weight, self.bias, self.push))
        return self

    @property
    def digest(self) -> str:
        """Twelve hex digits of its tables' hash, to tell heads apart."""
        tables = (self.weight, self.bias, self.push)
        return hashlib.sha256(b"".join(table.cpu().numpy().tobytes() for table in tables)).hexdigest()[:12]

    def save(self, path: str | os.PathLike) -> None:
        """Write the head as safetensors, atomically."""
        about = {"names": self.names, "attribute": self.attribute, "timesteps": self.timesteps}
        about |= {"accuracy": self.accuracy, "base_hash": self.base_hash, "words": self.words}
        metadata = {f"ddm.{key}": write_json(value) for key, value in about.items()}
        tensors = {"weight": self.weight, "bias": self.bias, "push": self.push}
        save_tensors(path, tensors, metadata | {"ddm.kind": KIND, "ddm.version": VERSION})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "HSpaceClassifier":
        """Read a head that `save` wrote.

        Raises:
            DDMError: no such file, not safetensors, no head, or made by a later version.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("ddm.kind") != KIND:
            raise DDMError(f"{path} is not a head for distribution guidance. Choose another file, or make one.")
        if metadata.get("ddm.version") != VERSION:
            raise DDMError(
                f"{path} is a head of format {metadata.get('ddm.version')}, and this version of ComfyUI-DDM reads "
                f"format {VERSION}. Update ComfyUI-DDM, or make the head again."
            )
        try:
            about = read_fields(metadata, _ABOUT | {"words": list[str]}, "it")
            tables = {name: tensors[name].float() for name in ("weight", "bias", "push")}
            _check_shapes(about, tables)
        except (DDMError, KeyError) as error:
            raise DDMError(f"{path} is not a complete head ({error}). Make it again.") from error
        check_finite(path, tables)
        return cls(**about, **tables)


_ABOUT = {
    "names": list[str],
    "attribute": str,
    "timesteps": list[int],
    "accuracy": list[float],
    "base_hash": str,
}


def _check_shapes(about: dict[str, Any], tables: dict[str, torch.Tensor]) -> None:
    """Refuse a head whose parts do not belong together."""
    missing = ", ".join(_ABOUT.keys() - about.keys())
    if missing:
        raise DDMError(f"it does not say its {missing}")
    times, names, weight = about["timesteps"], about["names"], tables["weight"]
    if len(set(names)) != len(names) or len(names) < 2:
        raise DDMError("it needs two different classes or more")
    if not times or times != sorted(set(times)) or times[0] < 0 or len(about["accuracy"]) != len(times):
        raise DDMError("its timesteps do not ascend, or have no accuracy each")
    grids = weight.ndim == 5 and weight.shape[:2] == (len(times), len(names)) and weight.numel()
    if not grids or tables["bias"].shape != weight.shape[:2] or tables["push"].shape != weight.shape:
        raise DDMError("its tables are of other shapes than its classes and timesteps")


def fit_head(
    layers: "Iterable[tuple[int, torch.Tensor]]",
    membership: np.ndarray,
    names: Sequence[str],
    attribute: str,
    base_hash: str = "",
    seed: int = 0,
    caption: np.ndarray | None = None,
    words: Sequence[str] | None = None,
    noisy: bool = False,
) -> HSpaceClassifier:
    """Fit the head by logistic regression at each timestep.

    Classes count alike, however rare they are, within each caption too (`even_weights`): where captions lean, the
    caption tells the class nearly as well as the image does, and a head must learn the image.

    Args:
        layers: per timestep, ascending, h [N, C, H, W] of the noisy images.
        membership: [N, K] how sure it is that an image is of a class; rows of zeros are left out.
        names: the K classes.
        attribute: what they are classes of.
        base_hash: of the base.
        seed: of the choice of the fifth that accuracy and temperature are measured on.
        caption: [N] index of the caption; None: one for all.
        words: as in `HSpaceClassifier`.
        noisy: memberships are wrong now and then. The push is then the difference of the classes' means, which such
            mistakes shorten but do not turn, as they turn the head's own direction. What no timestep tells is taken for
            their mistake, and does not shorten the push.

    Raises:
        DDMError: a class with fewer than five images.
    """
    from sklearn.linear_model import LogisticRegression

    known = membership.sum(1) > 0
    truth, sure = membership[known].argmax(1), membership[known].max(1)
    counts = np.bincount(truth, minlength=len(names))
    if counts.min() < 5:
        rare = ", ".join(f"{count} of {name}" for name, count in zip(names, counts, strict=True) if count < 5)
        raise DDMError(
            f"The head for {attribute} has too few images to learn from: {rare}. Add images of these, or make more "
            "of them.",
            "prior_count",
        )
    even = even_weights(truth, np.zeros(len(truth), dtype=int) if caption is None else caption[known])
    held_out = hold_out(truth, 0.2, seed)
    found = []
    for t, h in layers:
        h = h[torch.as_tensor(known)]
        values = h.flatten(1).cpu().numpy()
        spread = values.std(0) + 1e-2 * values.std()
        scaled = (values - values.mean(0)) / spread

        def fitted(rows: np.ndarray, scaled: np.ndarray = scaled) -> tuple[np.ndarray, np.ndarray]:
            model = LogisticRegression(C=1 / (PENALTY * scaled.shape[1]), max_iter=500)
            model.fit(scaled[rows], truth[rows], sample_weight=(sure * even)[rows])
            weight, bias = model.coef_, model.intercept_
            if len(names) == 2:  # scikit-learn keeps one row of log-odds
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            return weight, bias

        def mean(part: np.ndarray, values: np.ndarray) -> np.ndarray:
            return np.average(values[part], 0, even[part])

        weight, bias = fitted(~held_out)
        guess = scaled[held_out] @ weight.T + bias
        right = guess.argmax(1) == truth[held_out]
        accuracy = float(np.mean([right[truth[held_out] == index].mean() for index in range(len(names))]))
        temperature = calibrate(guess, truth[held_out])
        weight, bias = fitted(np.ones(len(truth), dtype=bool))
        means = np.stack([mean(truth == index, scaled) for index in range(len(names))])
        means -= means.mean(0)
        skill = max(0.0, (accuracy * len(names) - 1) / (len(names) - 1))
        push = means if noisy else weight * ((weight * means).sum() / np.square(weight).sum())
        weight, bias = weight / temperature, bias / temperature
        shape = (len(names), *h.shape[1:])
        found.append(
            (
                t,
                (weight / spread).reshape(shape),
                bias - (weight / spread) @ values.mean(0),
                skill * (push * spread).reshape(shape),
                round(accuracy, 4),
                skill,
            )
        )
    timesteps, *tables, accuracies, skills = zip(*found, strict=True)
    weight, bias, push = (torch.as_tensor(np.stack(table)).float() for table in tables)
    if noisy:
        push = push / max(*skills, 0.5)
    return HSpaceClassifier(names, attribute, timesteps, weight, bias, push, accuracies, base_hash, words)


def even_weights(truth: np.ndarray, caption: np.ndarray) -> np.ndarray:
    """Weights [N], of mean 1, by which the classes of a caption count alike, and all classes.

    A caption counts as much as its images can tell of the difference: the harmonic mean of its classes' counts. One
    of a single class tells nothing of it and has weight 0, unless there are no others.

    Args:
        truth: [N] class of each image.
        caption: [N] index of its caption.
    """
    caption = np.unique(caption, return_inverse=True)[1]
    counts = np.zeros((caption.max() + 1, truth.max() + 1))
    np.add.at(counts, (caption, truth), 1)
    classes = (counts > 0).sum(1)
    inverse = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0).sum(1)
    telling = np.where(classes > 1, classes / inverse, 0)
    weights = (telling[:, None] / np.maximum(counts, 1))[caption, truth]
    total = np.bincount(truth, weights)
    if (total == 0).any():
        weights, total = np.ones(len(truth)), np.bincount(truth).astype(float)
    return weights * (len(truth) / len(total) / total)[truth]
