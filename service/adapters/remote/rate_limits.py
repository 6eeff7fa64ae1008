"""RateLimits: how many requests an owner may send in a while, counted in Redis by all API processes together.

While the broker is away each process counts for itself: nobody waits for it, and nobody is let in without count.
"""

import logging
import math
import time
from typing import Any

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.ports.access import Allowance

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.25  # for one answer of the broker
AWAY_SECONDS = 10.0  # before it is asked again


class RateLimits:
    """access_ports.RateLimiter. `rate`: such as "600/minute", over a sliding window."""

    def __init__(self, rate: str, broker_url: str) -> None:
        self._item = parse(rate)
        options: dict[str, Any] = {
            "socket_timeout": PATIENCE_SECONDS,
            "socket_connect_timeout": PATIENCE_SECONDS,
            "retry": Retry(NoBackoff(), 0),
        }
        shared = RedisStorage(broker_url.replace("redis+socket://", "redis+unix://"), **options)
        self._shared = SlidingWindowCounterRateLimiter(shared)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._away_until = 0.0

    def take(self, owner: str) -> Allowance:
        if time.monotonic() >= self._away_until:
            try:
                return _take(self._shared, self._item, owner)
            except RedisError as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                logger.warning("the broker is away, so this process counts requests for itself: %s", error)
        return _take(self._own, self._item, owner)


def _take(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, owner: str) -> Allowance:
    is_allowed = limiter.hit(item, "headroom", owner)
    stats = limiter.get_window_stats(item, "headroom", owner)
    seconds = max(1, math.ceil(stats.reset_time - time.time()))
    return Allowance(is_allowed, item.amount, item.get_expiry(), stats.remaining if is_allowed else 0, seconds)
