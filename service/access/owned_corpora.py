"""Corpora as their owners see them. Texts are stored once, by content; who holds one is written in SQL.

A text is removed when the last of its holders lets it go. Somebody who does not hold a text is told what they would be
told if nobody did. An admin sees all texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from service.foundation.errors import CorpusInUse, CorpusNotFound, QuotaExceeded, StoreUnavailable
from service.ports.access import CorpusHolds
from service.ports.files import Corpus, CorpusStore
from service.ports.jobs import JobStore
from service.records.callers import Caller
from service.records.quotas import NO_QUOTAS, Quotas


@dataclass(frozen=True)
class OwnedCorpora:
    """The stores of texts, of their holders, and of the jobs that read them."""

    corpora: CorpusStore
    holds: CorpusHolds
    jobs: JobStore
    quotas: Quotas = NO_QUOTAS

    def add(self, caller: Caller, chunks: Iterator[bytes], format: str, field: str | None) -> tuple[Corpus, bool]:
        """The corpus, and whether its owner did not hold it before; raises as CorpusStore.add does. QuotaExceeded."""
        self.check_room(caller)
        corpus = self.corpora.add(self._that_fit(caller, chunks), format, field)
        try:
            since, is_new = self.hold(caller, corpus)
        except QuotaExceeded:  # something else of this owner took the room meanwhile
            self.holds.release(caller.owner, corpus.id, lambda: self.corpora.delete(corpus.id))
            raise
        return replace(corpus, created=since), is_new

    def hold(self, caller: Caller, corpus: Corpus) -> tuple[datetime, bool]:
        """Since when, and whether only now. From here on nobody else's deletion removes the text. QuotaExceeded."""
        since, is_new = self.holds.hold(caller.owner, corpus.id, corpus.size, self.quotas)
        try:
            self.corpora.get(corpus.id)
        except CorpusNotFound:  # its last holder let it go before this one took hold
            self.holds.release(caller.owner, corpus.id, lambda: None)
            raise StoreUnavailable("the same text was just being deleted; send it again") from None
        return since, is_new

    def check_room(self, caller: Caller) -> None:
        """QuotaExceeded if the caller's owner may store nothing more."""
        if self.quotas.max_bytes:
            self.quotas.check_bytes(self._bytes(caller))

    def _that_fit(self, caller: Caller, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The text, as long as there is room: how much comes is known only once it is there. QuotaExceeded."""
        used, size = self._bytes(caller) if self.quotas.max_bytes else 0, 0
        for chunk in chunks:
            size += len(chunk)
            self.quotas.check_fit(used, size, "a corpus")
            yield chunk

    def _bytes(self, caller: Caller) -> int:
        return self.jobs.stored_bytes(caller.owner) + self.holds.bytes(caller.owner)

    def get(self, caller: Caller, corpus_id: str) -> Corpus:
        """CorpusNotFound, also for one that only others hold."""
        since = self.holds.since(caller.owner, corpus_id)
        if since is None and caller.sees is not None:
            raise CorpusNotFound(f"there is no corpus {corpus_id!r}; upload it with POST /v1/corpora")
        corpus = self.corpora.get(corpus_id)
        return replace(corpus, created=since or corpus.created)

    def all(self, caller: Caller) -> list[Corpus]:
        """Newest first."""
        held = self.holds.held(caller.owner)
        seen = [
            replace(corpus, created=held.get(corpus.id, corpus.created))
            for corpus in self.corpora.all()
            if corpus.id in held or caller.sees is None
        ]
        return sorted(seen, key=lambda corpus: (corpus.created, corpus.id), reverse=True)

    def delete(self, caller: Caller, corpus_id: str) -> None:
        """Let it go; an admin who does not hold it takes it from everybody. CorpusNotFound, CorpusInUse."""
        self.get(caller, corpus_id)
        whose = caller.owner if self.holds.since(caller.owner, corpus_id) is not None else caller.sees
        if self.jobs.corpus_in_use(corpus_id, whose):
            raise CorpusInUse(f"a job that has not ended reads {corpus_id}; cancel it, or wait, and delete it then")
        self.holds.release(whose, corpus_id, lambda: self.corpora.delete(corpus_id))
