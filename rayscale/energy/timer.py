"""A timer of the kernel that rings at start, start + p, start + 2 p, ... of CLOCK_MONOTONIC.

It is set once; no deadline is computed or passed after that, and a ring that nobody waited for is not lost. It comes on
the microsecond, where `epoll` alone knows whole milliseconds only and `select` costs half as much again.
Python offers timerfd from 3.13 on; before that it is reached through the C library.
"""

from __future__ import annotations

import ctypes
import os
import time

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME


class _Moment(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    @classmethod
    def of(cls, seconds: float) -> _Moment:
        whole, rest = divmod(round(seconds * 1e9), 1_000_000_000)
        return cls(whole, rest)


class _Schedule(ctypes.Structure):
    _fields_ = (("interval", _Moment), ("first", _Moment))


class PeriodicTimer:
    """A descriptor (`fd`) that becomes readable at every ring."""

    def __init__(self) -> None:
        """Make it; it does not ring yet.

        Raises:
            OSError: If the kernel gives no timer.
        """
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def set(self, first: float, period_s: float) -> None:
        """Have it ring from now on.

        Args:
            first: CLOCK_MONOTONIC of the first ring, in s; one that has passed rings at once.
            period_s: Time between rings, in s, above 0.

        Raises:
            OSError: If the kernel refuses.
        """
        schedule = _Schedule(_Moment.of(period_s), _Moment.of(first))
        if self._libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(schedule), None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def rearm(self) -> int:
        """Take note of its ring, without which there is no next one.

        Returns:
            How many times it rang since the last time; 0: not once.
        """
        try:
            return os.eventfd_read(self.fd)  # the same 8 bytes
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Give it back."""
        os.close(self.fd)
