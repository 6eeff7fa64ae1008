"""From what a request shows to who sent it: keys, and the sessions of browsers that were opened with one."""

import hmac
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.foundation.errors import StoreUnavailable, Unauthenticated
from service.ports.access import KeyStore
from service.ports.jobs import Clock
from service.records.callers import Caller, Key, digest_of, key_id_of

logger = logging.getLogger(__name__)

SESSION_LASTS = timedelta(hours=12)
NOTED_AGAIN_AFTER = timedelta(minutes=10)  # a key's last use is written no oftener
NO_DIGEST = digest_of("")  # compared with when there is no such key, so that both take as long

BAD_KEY = "the key is not known, has expired or was revoked; ask the operator for another"
BAD_SESSION = "the session has ended; sign in again"


@dataclass(frozen=True)
class Session:
    """A browser's stand-in for a key. Ends by itself, with its key, or when it is closed."""

    token: str
    expires: datetime
    caller: Caller


@dataclass(frozen=True)
class Authentication:
    """Raises Unauthenticated, which never says what exactly was wrong."""

    keys: KeyStore
    clock: Clock

    def by_key(self, secret: str) -> Caller:
        return self._caller(self._key_of(secret))

    def by_session(self, token: str) -> Caller:
        found = self.keys.find_session(digest_of(token))
        now = self.clock()
        if found is None or now >= found[1] or not found[0].is_valid(now):
            raise Unauthenticated(BAD_SESSION)
        return self._caller(found[0])

    def open_session(self, secret: str) -> Session:
        key, token = self._key_of(secret), secrets.token_urlsafe(32)
        expires = self.clock() + SESSION_LASTS
        if key.expires is not None:
            expires = min(expires, key.expires)
        self.keys.add_session(digest_of(token), key.id, expires)
        return Session(token, expires, self._caller(key))

    def close_session(self, token: str) -> None:
        self.keys.remove_session(digest_of(token))

    def _key_of(self, secret: str) -> Key:
        key_id = key_id_of(secret)
        found = self.keys.find(key_id) if key_id else None
        matches = hmac.compare_digest(found[1] if found else NO_DIGEST, digest_of(secret))
        if found is None or not matches or not found[0].is_valid(self.clock()):
            raise Unauthenticated(BAD_KEY)
        return found[0]

    def _caller(self, key: Key) -> Caller:
        now = self.clock()
        if key.last_used is None or now - key.last_used >= NOTED_AGAIN_AFTER:
            try:
                self.keys.note_use(key.id, now)
            except StoreUnavailable:
                logger.warning("the last use of %s could not be noted", key.id)
        return Caller(key.owner, key.scopes, key.id)
