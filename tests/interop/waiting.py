"""Waiting for something to become true: bounded, and loud when it does not."""

import time

LONG = 60.0
"""Far beyond what anything here takes; only a test that fails waits this long."""


def until(observe, wanted, limit=LONG):
    """Observes again and again until what is seen is wanted; returns it."""
    ends = time.monotonic() + limit
    while True:
        seen = observe()
        if wanted(seen):
            return seen
        assert time.monotonic() < ends, f"not seen within {limit} s; last: {seen}"
        # Paces the asking; nothing is assumed to have happened in the meantime.
        time.sleep(0.02)
