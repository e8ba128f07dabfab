"""Soft tokens: learnt word embeddings that are said before a prompt, in a file that `embedding:name` loads."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.adapter.lora_file import AdapterCard
from ...debias.core.error import DDMError
from ...debias.core.io import check_finite, load_tensors, save_tensors

if TYPE_CHECKING:
    import torch

    from .base import Base

# Names of the tensors in a textual-inversion file: of one text encoder, and of SDXL's two.
ONE, TWO = ("emb_params",), ("clip_l", "clip_g")


@dataclass
class SoftTokens:
    """K word embeddings for each text encoder of a base, said right before the prompt.

    Attributes:
        rows: float32 [K, D] by the names of `Base.text_encoders`.
    """

    rows: "dict[str, torch.Tensor]"

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    @classmethod
    def from_vocabulary(cls, base: "Base", count: int, seed: int) -> "SoftTokens":
        """Start from words that the base knows, drawn at random: trainable copies of their embeddings."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        rows = {}
        for name, encoder in base.text_encoders.items():
            table = encoder.get_input_embeddings().weight
            # The last rows are the marks of beginning and end.
            drawn = torch.randperm(len(table) - 2, generator=generator)[:count]
            rows[name] = table[drawn.to(table.device)].detach().float().clone().requires_grad_()
        return cls(rows)

    def check(self, base: "Base") -> None:
        """Refuse a base whose word embeddings have another size.

        Raises:
            DDMError: it is another kind of base.
        """
        ours = {name: row.shape[1] for name, row in self.rows.items()}
        widths = {name: enc.get_input_embeddings().weight.shape[1] for name, enc in base.text_encoders.items()}
        if ours != widths:
            raise DDMError(
                f"The embedding was made for another base model: it has {_sizes(ours)} numbers per token, here it are "
                f"{_sizes(widths)}. Use the base it was trained on, or one of the same architecture."
            )

    def in_front(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Make room after the first of token ids [N, L]: [N, L + K]. What stands there is replaced (see `spoken`)."""
        import torch

        return torch.cat([ids[:, :1].expand(-1, len(self) + 1), ids[:, 1:]], dim=1)

    @contextmanager
    def spoken(self, base: "Base") -> Iterator[None]:
        """Put the embeddings behind the beginning of whatever the text encoders read."""
        import torch

        def replace(rows: "torch.Tensor"):
            def hook(_module: object, _inputs: object, output: "torch.Tensor") -> "torch.Tensor":
                said = rows.to(output).expand(len(output), -1, -1)
                return torch.cat([output[:, :1], said, output[:, 1 + len(rows) :]], dim=1)

            return hook

        with ExitStack() as hooks:
            for name, encoder in base.text_encoders.items():
                handle = encoder.get_input_embeddings().register_forward_hook(replace(self.rows[name]))
                hooks.callback(handle.remove)
            yield

    def save(self, path: str | Path, card: AdapterCard) -> None:
        """Write a textual-inversion file, atomically.

        Raises:
            DDMError: the name is not .safetensors, the tokens are not finite, or the disk refuses.
        """
        if Path(path).suffix.lower() != ".safetensors":
            raise DDMError(f"An embedding is saved as .safetensors, not as {Path(path).name}. Change the name.")
        if not all(row.isfinite().all() for row in self.rows.values()):
            raise DDMError(f"The tokens are not saved to {path}: they are not finite. Train with a lower rate.")
        names = ONE if len(self.rows) == 1 else TWO
        tensors = dict(zip(names, self.rows.values(), strict=True))
        save_tensors(path, tensors, {"format": "pt", "modelspec.title": card.title} | card.to_metadata())

    @classmethod
    def load(cls, path: str | Path) -> "tuple[SoftTokens, AdapterCard | None] | None":
        """The tokens in a textual-inversion file and their card; None where the file is something else.

        Raises:
            DDMError: missing, pickled or truncated file; tokens that are not finite; or a card that cannot be read.
        """
        tensors, metadata = load_tensors(path)
        encoders = {ONE: ("text_encoder",), TWO: ("text_encoder", "text_encoder_2")}
        for names, parts in encoders.items():
            if set(tensors) == set(names):
                check_finite(path, tensors)
                if any(one.ndim != 2 or not one.numel() or not one.is_floating_point() for one in tensors.values()):
                    raise DDMError(f"{path} is broken: an embedding has a row for each token. Copy or train it again.")
                rows = {part: tensors[name].float() for part, name in zip(parts, names, strict=True)}
                return cls(rows), AdapterCard.from_metadata(metadata)
        return None


def _sizes(widths: dict[str, int]) -> str:
    return " and ".join(map(str, widths.values()))
