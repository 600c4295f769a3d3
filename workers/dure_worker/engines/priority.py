"""Computing takes every core; what carries a finished token to its reader goes first.

Redis, the gateway and this worker's own Python each need a few microseconds a token. Measured: 16 → 9 ms until the
first token is seen.
"""

import os
import sys
import threading

_NICE = 5


def lower_priority() -> None:
    """Of this thread: batch class and lower priority. Threads that it starts inherit both (sched(7))."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, _NICE)
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
