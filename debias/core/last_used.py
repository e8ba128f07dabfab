"""A store of limited size."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

Key, Value = TypeVar("Key"), TypeVar("Value")


class LastUsed(OrderedDict[Key, Value]):
    """A mapping of at most so many entries: what was set, or asked for by `use`, longest ago goes first.

    Args:
        most: entries that are kept.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.most:
            self.popitem(last=False)

    def use(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made if there is none."""
        self[key] = self[key] if key in self else make()
        return self[key]
