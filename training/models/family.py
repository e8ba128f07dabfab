"""The interface of a model family: everything in which one family differs from the others, in one file each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ...debias.core.error import DDMError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import SchedulerMixin
    from safetensors import safe_open

    from ...debias.methods.h_space import HSpace
    from .base import Base
    from .text import Text

# Each family is a module in here, with its configuration at full size beside it.
FAMILIES = Path(__file__).parent / "families"
# What the denoiser of a checkpoint may answer, where its file does not tell which.
PREDICTIONS = ("epsilon", "v_prediction")
# What `load_base` takes as a way to keep weights in few bits, and as mixed precision.
QUANTIZATIONS = ("int8",)
PRECISIONS = ("auto", "no", "fp16", "bf16")


def class_of(library: str, name: str) -> type:
    """A class of diffusers or transformers.

    Raises:
        DDMError: the version that is installed is older than the class.
    """
    module = import_module(library)
    if not hasattr(module, name):
        raise DDMError(
            f"This model needs {name}, which {library} {module.__version__} does not have yet. Update {library}, or "
            "choose another base."
        )
    return getattr(module, name)


class TextEncoder(NamedTuple):
    """What a text encoder is, and how a checkpoint keeps it.

    Attributes:
        title: as people call it.
        prefix: what its keys begin with in a checkpoint in one file; None where there are none.
        open_clip: whether it has OpenCLIP's names there, or else transformers'.
        projected: whether its projection is used as well.
        kind, tokenizer: transformers' classes; no kind is CLIP's.
        length: how many tokens it reads, where its configuration does not tell.
        optional: whether a folder may come without it.
    """

    title: str = "CLIP"
    prefix: str | None = None
    open_clip: bool = False
    projected: bool = False
    kind: str = ""
    tokenizer: str = "CLIPTokenizer"
    length: int = 0
    optional: bool = False

    @property
    def model(self) -> type:
        """Its class; errors as in `class_of`."""
        return class_of("transformers", self.kind or f"CLIPTextModel{'WithProjection' if self.projected else ''}")

    def build(self, config: Mapping[str, Any]) -> "torch.nn.Module":
        """A model of that configuration, with no weights to speak of."""
        return self.model(self.model.config_class(**config))


class Family(ABC):
    """One family of models. It holds no weights; those are in a `Base`, which asks here for what families do unlike.

    Shapes are those of the family's latents: [B, C, h, w]; t is [B] timesteps of the training schedule.

    Attributes:
        name: of its module, and stem of its configuration.
        title: as people call it.
        part, denoiser, vae, scheduler: the denoiser's name in a pipeline, and the classes of the parts in diffusers.
        predictions: what its denoisers may answer, as diffusers names it.
        text_encoders: by their names in a pipeline, in the order in which they are read.
        text_fields: what `Text` has of an encoded prompt.
        chunked: whether a long prompt is read in chunks of 75 tokens, as CLIP needs it.
        skips_layers: whether an earlier layer of the text encoder may be read than the usual one (clip skip).
        targets, text_targets: last parts of the names of the layers that a LoRA changes, if nothing else is said; no
            text targets: of text encoders, no LoRA is made.
        signature: a name that only its diffusion model has among its tensors, in a file that ComfyUI keeps apart from
            the other parts (see `component_files`); empty where there are no such files.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    part: ClassVar[str]
    denoiser: ClassVar[str]
    vae: ClassVar[str] = "AutoencoderKL"
    scheduler: ClassVar[str]
    predictions: ClassVar[tuple[str, ...]]
    text_encoders: ClassVar[Mapping[str, TextEncoder]]
    text_fields: ClassVar[tuple[str, ...]] = ("tokens",)
    chunked = skips_layers = False
    targets: ClassVar[tuple[str, ...]]
    text_targets: ClassVar[tuple[str, ...]]
    signature: ClassVar[str] = ""

    # Files

    @abstractmethod
    def fits(self, config: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a pipeline folder with a denoiser of this name is of this family, by the config.json of its parts."""

    def adapt(self, config: dict[str, dict[str, Any]], shapes: Mapping[str, Sequence[int]]) -> None:  # noqa: B027
        """Put right in the configuration what differs between the checkpoints of the family; most do nothing.

        Args:
            shapes: of the tensors in a diffusion model's own file; of a whole U-Net checkpoint, nothing.
        """

    def told_prediction(self, file: "safe_open") -> str | None:
        """What a checkpoint predicts, where its weights tell it."""
        return None

    @abstractmethod
    def architecture(self, base: "Base") -> str:
        """`modelspec.architecture` of the LoRAs that are made for a base."""

    def check_text_targets(self) -> None:
        """Refuse to train text encoders that no LoRA is made of.

        Raises:
            DDMError: there are only such.
        """
        if not self.text_targets:
            raise DDMError(f"The text encoders of {self.title} are not trained, only its transformer.", "text_encoder")

    # Text

    def worded(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as they are put to the text encoders."""
        return list(prompts)

    @abstractmethod
    def encode(self, base: "Base", ids: "Mapping[str, torch.Tensor]") -> "Text":
        """Encode token ids [N, L], given for each text encoder."""

    @abstractmethod
    def blank_text(self, base: "Base", count: int) -> "Text":
        """As many encoded prompts as there can be tokens in, of which nothing but the shapes counts."""

    # Latents

    def latent_channels(self, base: "Base") -> int:
        """Channels of a latent."""
        return base.denoiser.config.in_channels

    def vae_factor(self, base: "Base") -> int:
        """Pixels per latent cell, along one side."""
        return 2 ** (len(base.vae.config.block_out_channels) - 1)

    @abstractmethod
    def latent_statistics(self, base: "Base") -> "tuple[float | torch.Tensor, float | torch.Tensor]":
        """Shift and scale of latents: what the VAE gives is (latent − shift) · scale to the denoiser."""

    def posterior(self, base: "Base", pixels: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Mean and standard deviation of the latents [N, C, h, w] of images [N, 3, H, W] in −1…1."""
        (shift, scale), found = self.latent_statistics(base), base.vae.encode(pixels).latent_dist
        return (found.mean - shift) * scale, found.std * scale

    def pixels(self, base: "Base", latents: "torch.Tensor") -> "torch.Tensor":
        """Images [N, 3, H, W] in −1…1 of latents [N, C, h, w]; gradients pass."""
        shift, scale = self.latent_statistics(base)
        return base.vae.decode(latents / scale + shift).sample

    @abstractmethod
    def native_size(self, base: "Base") -> int:
        """Side in pixels of the images that a base was made for."""

    @abstractmethod
    def side_step(self, base: "Base") -> int:
        """Sides of images in pixels are multiples of this."""

    # Time, noise and target

    @abstractmethod
    def prediction(self, base: "Base") -> str:
        """What the denoiser answers."""

    @abstractmethod
    def schedule(self, base: "Base") -> "torch.Tensor":
        """[T] ᾱ of the training schedule, on the base's device.

        Raises:
            DDMError: the family has no such table.
        """

    @abstractmethod
    def timesteps(self, base: "Base", shares: "np.ndarray", plain: bool = False) -> "np.ndarray":
        """The timesteps of a step's rows, by which share [B] of all that are drawn is below each.

        Args:
            plain: as a style is learnt, and not as who is in an image is.
        """

    def along(self, base: "Base", timesteps: Sequence[int]) -> Sequence[int]:
        """The timesteps at which a model of this family knows about as much of an image as SD 1.5 does at these."""
        return timesteps

    @abstractmethod
    def rates(self, base: "Base", t: float) -> tuple[float, float]:
        """How much of latents and of noise is in noisy latents at a timestep."""

    @abstractmethod
    def gradient_scales(self, base: "Base", timesteps: "torch.Tensor") -> "torch.Tensor":
        """The inverse of a prediction's weight in the final latent, over its geometric mean: every step counts alike.

        Returns:
            float32 [S], for timesteps [S].
        """

    @abstractmethod
    def solver(self, base: "Base") -> "SchedulerMixin":
        """The scheduler that images are made with. It has no randomness, takes latents as they are, and noise of 1."""

    @abstractmethod
    def noisy(self, base: "Base", latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """Latents with noise at timesteps."""

    @abstractmethod
    def target(self, base: "Base", latents: "torch.Tensor", noise: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """What the denoiser should answer for latents with that noise."""

    @abstractmethod
    def noise(self, base: "Base", answer: "torch.Tensor", noisy: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
        """The noise that the denoiser's answer says is in noisy latents."""

    # The denoiser

    @abstractmethod
    def predict(self, base: "Base", noisy: "torch.Tensor", t: "torch.Tensor", text: "Text") -> "torch.Tensor":
        """The denoiser's own answer in float32, computed in the base's precision; t is [B] or one for all."""

    @abstractmethod
    def features(self, denoiser: "torch.nn.Module") -> "dict[str, torch.nn.Module]":
        """The modules whose outputs are features for finding groups, by a name for each."""

    @abstractmethod
    def hidden(self, output: "torch.Tensor | tuple", latents: "Sequence[int]") -> "torch.Tensor":
        """The image's hidden states [B, C, ...] in what such a module gives, for latents of a shape [..., h, w]."""

    @abstractmethod
    def h_space(self, denoiser: "torch.nn.Module") -> "HSpace":
        """What distribution guidance moves."""


@cache
def families() -> tuple[Family, ...]:
    """All families: every module of the folder that has a configuration beside it."""
    names = sorted(path.stem for path in FAMILIES.glob("*.py") if path.with_suffix(".json").is_file())
    return tuple(import_module(f".families.{name}", __package__).FAMILY for name in names)


def named_family(name: str) -> Family:
    """The family of this name."""
    return next(family for family in families() if family.name == name)


def family_of(config: Mapping[str, Mapping[str, Any]]) -> Family | None:
    """The family of a pipeline folder, by the config.json of its parts; None where it is none that is known."""
    return next((family for family in families() if family.part in config and family.fits(config)), None)
