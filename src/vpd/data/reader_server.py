"""Imported by the server that worker processes come from, and by nothing else: it says what its children begin with.

The server itself is started with SIGTERM and SIGINT blocked, which its children would inherit. Those that read samples
block them again at once; others, which somebody may start by `multiprocessing`, are to end when they are told.
"""

from __future__ import annotations

import os
import signal

os.register_at_fork(
    after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT]),
)
