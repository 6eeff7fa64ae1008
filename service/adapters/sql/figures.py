"""What monitoring asks, as SQL: a handful of grouped counts. Runs inside the caller's transaction."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from headroom.contract.answers.job import Status
from service.adapters.sql.tables import attempts, deliveries, jobs, outbox
from service.foundation.errors import WorkerLost
from service.ports.jobs import ENDED_JOBS, EndedJob, StoreFigures
from service.records.webhooks import DeliveryStatus


def read_figures(connection: Connection, since: datetime, now: datetime) -> StoreFigures:
    """`since`: how far back "lately" reaches."""
    counted = select(jobs.c.kind, jobs.c.status, func.count()).group_by(jobs.c.kind, jobs.c.status)
    waiting = select(func.count(), func.min(outbox.c.due)).where(outbox.c.due <= now)
    due, oldest_due = connection.execute(waiting).one()
    lost = select(func.count()).where(attempts.c.finished >= since, attempts.c.outcome == WorkerLost.code)
    newest_first = jobs.c.finished.desc()
    ended = select(jobs.c.kind, jobs.c.status, jobs.c.phase_seconds).where(jobs.c.finished >= since)
    pending = select(func.count(), func.min(deliveries.c.created)).where(
        deliveries.c.status == DeliveryStatus.PENDING.value
    )
    pending_deliveries, oldest_delivery = connection.execute(pending).one()
    return StoreFigures(
        jobs={(kind, Status(status)): count for kind, status, count in connection.execute(counted)},
        due=due,
        oldest_due=oldest_due,
        pending_deliveries=pending_deliveries,
        oldest_delivery=oldest_delivery,
        lost_attempts=connection.scalar(lost) or 0,
        ended=[
            EndedJob(kind, Status(status), seconds)
            for kind, status, seconds in connection.execute(ended.order_by(newest_first).limit(ENDED_JOBS))
        ],
    )
