"""What routes work with. Built once, in main.py or a test, and handed to create_app; nothing here opens anything."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from service.ports import ArtifactStore, Clock, CorpusStore, JobQueue, JobStore, ModelSource
from service.submission import Submission
from service.tracing import NoTracer, Tracer


@dataclass(frozen=True)
class Services:
    """The collaborators of the API process, and the limits an operator set."""

    store: JobStore
    queue: JobQueue
    artifacts: ArtifactStore
    corpora: CorpusStore
    models: ModelSource
    clock: Clock
    data_dir: Path
    max_body_bytes: int
    max_corpus_bytes: int
    uploads: CapacityLimiter  # threads that slow uploads may hold, so that they never take those of all other requests
    tracer: Tracer = field(default_factory=NoTracer)
    draining: threading.Event = field(default_factory=threading.Event)  # set once this process was told to stop

    @property
    def submission(self) -> Submission:
        return Submission(self.store, self.queue, self.corpora, self.models, self.clock, self.tracer)


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


AppServices = Annotated[Services, Depends(services_of)]
