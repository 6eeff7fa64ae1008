"""What goes when: published files, reports, corpora and audit entries of long ago, if an operator set a time for them.

Nothing goes that a job may still read: not the files of a job that has not ended, nor a corpus of one.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from service.foundation.errors import CorpusInUse, CorpusNotFound, JobNotFound
from service.ports.access import AuditLog, CorpusHolds
from service.ports.files import ArtifactStore, CorpusStore
from service.ports.jobs import JobStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Days after the end of a job, after the last use of a corpus, or after an entry was written; 0: for ever."""

    artifact_days: float
    report_days: float
    corpus_days: float
    audit_days: float = 0.0


@dataclass(frozen=True)
class Retirement:
    """The stores that a round of retiring works on."""

    store: JobStore
    holds: CorpusHolds
    artifacts: ArtifactStore
    corpora: CorpusStore
    audit: AuditLog

    def retire(self, retention: Retention, now: datetime) -> None:
        """Safe beside others that do the same. Raises what the stores raise; the next round goes on."""
        if retention.artifact_days:
            self._artifacts(now - timedelta(days=retention.artifact_days))
        if retention.report_days:
            count = self.store.forget_reports(now - timedelta(days=retention.report_days))
            if count:
                logger.info("removed %d reports older than %g days", count, retention.report_days)
        if retention.corpus_days:
            self._corpora(now - timedelta(days=retention.corpus_days))
        if retention.audit_days:
            count = self.audit.forget(now - timedelta(days=retention.audit_days))
            if count:
                logger.info("removed %d entries of the audit log older than %g days", count, retention.audit_days)

    def _artifacts(self, before: datetime) -> None:
        for job_id in self.artifacts.published_before(before):
            try:
                job = self.store.get(job_id)
            except JobNotFound:
                continue  # of a database that this one was restored over: see docs/operations.md
            if job.status.is_final and job.finished is not None and job.finished < before:
                self.artifacts.withdraw(job_id)
                self.store.forget_bytes(job_id)
                logger.info("the files of %s are no longer kept", job_id)

    def _corpora(self, before: datetime) -> None:
        for corpus in self.corpora.all():
            held = self.holds.last(corpus.id)
            if corpus.created >= before or (held is not None and held >= before):
                continue
            try:
                self.holds.release(None, corpus.id, partial(self._delete, corpus.id, before))
            except (CorpusInUse, CorpusNotFound):  # or it was deleted meanwhile
                continue
            logger.info("%s was not used for a long time and is no longer kept", corpus.id)

    def _delete(self, corpus_id: str, before: datetime) -> None:
        """While nobody can take hold of it; raising keeps every hold."""
        if self.store.corpus_in_use(corpus_id, since=before):
            raise CorpusInUse(f"{corpus_id} is in use")
        self.corpora.delete(corpus_id)
