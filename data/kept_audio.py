"""Decoded audio that will be asked for again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class KeptAudio:
    """The arrays that were asked for last, up to `max_bytes` of them in each process. They are read-only."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this key, made by `load` where it isn't there. What `load` raises is raised, and not kept."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
            return self._arrays[key]
        array = load()
        array.flags.writeable = False
        self._arrays[key] = array
        self.nbytes += array.nbytes
        while self.nbytes > self.max_bytes:
            _, oldest = self._arrays.popitem(last=False)
            self.nbytes -= oldest.nbytes
        return array
