"""Fewer garbage collections while a large batch runs."""

from __future__ import annotations

import gc
import threading

MANY = 256  # programs from which on it pays
EACH = 200  # twice the objects of a program with a few branches
MOST = 2_000_000  # allocations between collections of the youngest objects; Python's default is 700

_lock = threading.Lock()
_holders = 0
_before: tuple[int, int, int] = (0, 0, 0)
_raised = 0


class FewerCollections:
    """Raises the collector's first threshold from its making until `release`, for the whole process; they may overlap.

    A batch makes hundreds of thousands of objects that live until its end and form no cycles. With Python's default
    the collector looks at all of them again and again and finds nothing: half of the CPU time of a batch of ten
    thousand (`benchmarks/hub.py`). At the end they count as old, or the next collections would look at them once more.
    Garbage of the user's own bodies is still collected, later.
    """

    __slots__ = ("_held",)

    def __init__(self, programs: int) -> None:
        global _holders, _before, _raised
        self._held = True
        with _lock:
            if _holders == 0:
                _before = gc.get_threshold()
                _raised = _before[0]
            _holders += 1
            wanted = min(EACH * programs, MOST)
            # 0 means that the user has switched collecting off
            if 0 < _raised < wanted and gc.get_threshold()[0] == _raised:
                _raised = wanted
                gc.set_threshold(_raised, *_before[1:])

    def release(self) -> None:
        """As it was; a second call does nothing."""
        global _holders
        with _lock:
            if not self._held:
                return
            self._held = False
            _holders -= 1
            # whoever has set another threshold meanwhile keeps it
            if _holders == 0 and gc.get_threshold() == (_raised, *_before[1:]) and _raised != _before[0]:
                if gc.get_freeze_count() == 0:  # else what the user has frozen would thaw
                    gc.freeze()
                    gc.unfreeze()
                gc.set_threshold(*_before)
