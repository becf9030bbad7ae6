"""When this process began its work: what `--time` counts from."""

from __future__ import annotations

import time

started = time.monotonic()
