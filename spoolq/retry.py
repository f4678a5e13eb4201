"""How long a message that failed waits for its next attempt. Pure; the caller stores what it answers.

Computed once, when a delivery ends, so that neither a restart nor changed settings move a message that waits already.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spoolq.settings import Retry


def delay_s(attempts: int, retry: Retry, random: Callable[[], float] = _random.random) -> float:
    """Seconds until the next attempt, after `attempts` (1 or more) deliveries.

    With `list_s` its entries one by one, the last one again and again, as they stand. Else
    base_s x factor^(attempts-1), moved by chance by up to `jitter` of itself either way, so that what failed together
    does not come back together; never over `cap_s`. random: from 0 to 1.
    """
    if retry.list_s:
        return retry.list_s[min(attempts, len(retry.list_s)) - 1]
    wait_s = min(retry.cap_s, _grown(retry.base_s, retry.factor, attempts - 1))
    return min(retry.cap_s, wait_s * (1 + retry.jitter * (2 * random() - 1)))


def _grown(base_s: float, factor: float, times: int) -> float:
    """base_s x factor^times, infinite where a float cannot say it."""
    try:
        return base_s * factor**times
    except OverflowError:
        return float("inf") if base_s else 0.0
