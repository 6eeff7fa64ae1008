"""What a worker keeps on its own disk between jobs, and how much: hidden states, fetched models, copies of corpora.

Looked at after each attempt, since only attempts let it grow. The sweeper may run on another machine.
"""

import logging

from headroom.contract.answers.job import FINAL, Status
from service.adapters.files.cache_limits import limit_cache
from service.foundation.errors import ServiceError
from service.ports.jobs import JobStore
from service.records.job import Job
from workers.sweeping.dead_attempts import all_jobs, discard_stale
from workers.wiring import Parts

logger = logging.getLogger(__name__)

CORPUS_COPIES_BYTES = 10_000_000_000


def limit_caches(parts: Parts) -> None:
    """Also removes what dead attempts left in staging, where no sweeper sees it. Trouble is logged: the next attempt
    tries again."""
    settings = parts.settings
    try:
        if settings.storage_url:
            discard_stale(parts)
        limit_cache(settings.hidden_states_dir, settings.max_hidden_cache_bytes, set)
        limit_cache(settings.hub_cache_dir, settings.max_model_cache_bytes, lambda: _models(parts.store))
        limit_cache(settings.corpus_copies_dir, CORPUS_COPIES_BYTES, lambda: _corpora(parts.store))
    except (OSError, ServiceError) as error:
        logger.warning("the caches were not looked at: %s", error)


def _going_on(store: JobStore) -> list[Job]:
    return [job for status in Status if status not in FINAL for job in all_jobs(store, status)]


def _models(store: JobStore) -> set[str]:
    """As huggingface_hub names their folders."""
    references = [reference for job in _going_on(store) for reference in (job.recipe.model, *job.recipe.other_models)]
    return {"models--" + reference.id.replace("/", "--") for reference in references}


def _corpora(store: JobStore) -> set[str]:
    return {corpus for job in _going_on(store) for corpus in job.recipe.corpora if isinstance(corpus, str)}
