"""The frame of everything that runs in time and on a network. Today: the clock.

`mtc.web.clock` stands alone, so that a sequencer does not load a web server.
"""

from mtc.web.clock import Clock, ClockGuard, SystemClock

__all__ = ["Clock", "ClockGuard", "SystemClock"]
