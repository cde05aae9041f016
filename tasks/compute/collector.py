"""Python's collector of garbage in cycles, where much is made that is in none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_OBJECTS = 50_000


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect far less often meanwhile.

    A batch of tokens is some thousands of lists, which makes the collector go through all that torch and transformers hold again
    and again: some fifth of the time of tokenizing.
    """
    thresholds = gc.get_threshold()
    if thresholds[0]:  # 0 collects nothing
        gc.set_threshold(max(_OBJECTS, thresholds[0]), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
