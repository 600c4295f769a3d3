"""Who may run beside whom: jobs share the worker, but a job on its last try runs alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Many at once, or one alone. Whoever waits to be alone goes before those that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_shared = 0
        self._num_waiting = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self._num_waiting)
            self._num_shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_shared -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._num_waiting += 1
            self._changed.wait_for(lambda: not self._is_alone and not self._num_shared)
            self._num_waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
