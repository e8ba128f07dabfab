"""What a step does on a GPU as one CUDA graph: thousands of kernels are launched at once, not by Python one by one."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# torch asks for calls on another stream before a recording; the first of them also compiles what is compiled.
CALLS = 2


class Recording:
    """A function of tensors on a GPU, recorded once and replayed with other values of the same shapes.

    Args:
        function: waits for nothing, and gives a tensor. What it reads or writes besides its arguments (weights,
            gradients, strengths of LoRAs) must stay where it is in memory. It is called some times first.
        arguments: tensors by name, or None.
        pool: `torch.cuda.graph_pool_handle()`; recordings that are never replayed at once share their memory.
    """

    def __init__(
        self,
        function: "Callable[..., torch.Tensor]",
        arguments: "dict[str, torch.Tensor | None]",
        pool: "tuple[int, int]",
    ):
        import torch

        self.arguments = {name: None if value is None else value.clone() for name, value in arguments.items()}
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        # Which convolutions are fastest is looked for here, and once.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(CALLS):
                    function(**self.arguments)
            here.wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool):
                self.result = function(**self.arguments)

    def __call__(self, arguments: "dict[str, torch.Tensor | None]") -> "torch.Tensor":
        """What the function gives for other values, of the shapes of the first."""
        for name, value in arguments.items():
            if value is not None:
                self.arguments[name].copy_(value)
        self.graph.replay()
        return self.result.clone()
