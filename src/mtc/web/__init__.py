"""The frame of everything that runs in time and on a network.

`mtc.web.clock`: time and its guard. `mtc.web.frame`: the frame around every HTTP application (limits, headers, errors,
access log). `mtc.web.server`: serving it on TCP and Unix sockets. `mtc.web.client`: the HTTP client. `mtc.web.logs`:
structured logs. `mtc.web.memory`: the garbage collector. Only the clock is imported here, so that a sequencer does not
load a web server.
"""

from mtc.web.clock import Clock, ClockGuard, SystemClock

__all__ = ["Clock", "ClockGuard", "SystemClock"]
