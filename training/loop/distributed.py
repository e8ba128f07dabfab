"""The processes of one training: alone as a rule, several where `accelerate launch` has started them.

All of them batch the same steps, each computes its share of the rows, and the gradients are added up: so N processes
make the file that one makes. Whatever is decided or written, the first one decides and writes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

T = TypeVar("T")
# The others wait for the first one while it encodes a folder, finds groups or makes images.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """The processes as one of them sees them.

    Args:
        state: accelerate's, where there are several.
    """

    state: "PartialState | None" = None

    @classmethod
    @contextmanager
    def joined(cls, device: str) -> "Iterator[Ranks]":
        """Meet the others, if this process is one of several; they part at the end of the context.

        Args:
            device: as for `resolve_device`; each process of several has its own GPU, unless it is "cpu".
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu", timeout=TIMEOUT)
        yield cls(state)
        state.destroy_process_group()

    @property
    def several(self) -> bool:
        """Whether this process is not alone."""
        return self.state is not None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.state is None or self.state.is_main_process

    def device(self, name: str) -> "str | torch.device":
        """The device of this process, where the user named `name`."""
        return name if self.state is None else self.state.device

    def rows(self, count: int) -> np.ndarray:
        """Which of `count` rows are this process's to compute; it may be none."""
        if self.state is None:
            return np.arange(count)
        return np.array_split(np.arange(count), self.state.num_processes)[self.state.process_index]

    def total(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Replace tensors by their sums over all processes."""
        if self.state is None:
            return
        import torch
        from accelerate.utils import reduce

        sums = reduce(torch.cat([tensor.flatten() for tensor in tensors]), "sum")
        for tensor, part in zip(tensors, sums.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agreed(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process; the others do not call it, and wait."""
        if self.state is None:
            return make()
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([make() if self.first else None])[0]

    def any(self, here: bool) -> bool:
        """Whether it is so in one of them."""
        if self.state is None:
            return here
        import torch

        count = torch.tensor([float(here)], device=self.state.device)
        self.total([count])
        return bool(count)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first one goes ahead: what it has put into a cache, the others find there."""
        if self.state is None:
            yield
            return
        with self.state.main_process_first():
            yield
