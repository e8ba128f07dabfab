"""How many images a model looks at or makes at a time: what its memory has room for, and fewer once it had not."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .error import OutOfMemory

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# Latent cells (height × width, over all rows) that a CPU works on at a time.
CPU_CELLS = 8192
# Bytes of GPU memory that one row of 4,096 latent cells takes without gradients, generously.
GPU_BYTES = 300 << 20


def fitting_rows(device: "torch.device", cells: int, most: int) -> int:
    """How many rows of `cells` latent cells a U-Net takes at a time, without gradients: 1 to `most`."""
    import torch

    if device.type != "cuda":
        return min(most, max(1, CPU_CELLS // cells))
    torch.cuda.empty_cache()  # what torch keeps for later would count as taken
    free, _ = torch.cuda.mem_get_info(device)
    return int(min(most, max(1, free // 2 // (GPU_BYTES * cells / 4096))))


def in_batches(count: int, size: int, work: Callable[[slice], T]) -> Iterator[T]:
    """Let `work` do `count` images, `size` at a time; half as many from where the memory of the GPU does not suffice.

    Args:
        work: called with the images of a batch; again with fewer of them if it runs out of memory, so it must leave
            nothing behind then.

    Yields:
        What `work` gives for each batch, in order.

    Raises:
        OutOfMemory: the memory does not suffice for one image.
    """
    import torch

    start = 0
    while start < count:
        stop = min(start + size, count)
        try:
            done = work(slice(start, stop))
        except torch.cuda.OutOfMemoryError:
            # Not here: what follows needs the memory that the error's traceback holds.
            size, stop = (stop - start) // 2, start
        if stop > start:
            yield done
            start = stop
        elif size:
            torch.cuda.empty_cache()
        else:
            raise OutOfMemory(
                "The memory of the GPU does not suffice for one image at a time. Close other programs that use it, "
                "or choose a smaller model or another device."
            )
