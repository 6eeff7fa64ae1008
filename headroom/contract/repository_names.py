"""What the model repository of a job is called: `ns/name`, as Hugging Face clients accept it. Looks nothing up."""

import re

from headroom.contract.job_recipe import MODEL_ID_PART

DEFAULT_NAMESPACE = "headroom"
SHORT_ID = 8  # hex digits of the job's id: enough to tell the jobs on one model apart
MAX_PART = 96


def is_repository_id(value: str) -> bool:
    """Two parts of at most 96 letters, digits, '_', '-' and '.', with no '--' or '..', no '.git' at the end."""
    parts = value.split("/")
    plain = len(parts) == 2 and all(MODEL_ID_PART.fullmatch(part) for part in parts)
    return plain and "--" not in value and ".." not in value and not value.endswith(".git")


def default_repository(model_id: str, job_id: str) -> str:
    """`headroom/<name of the model>-<start of the job's id>`: no two jobs share it, so its `main` never moves."""
    short = job_id.removeprefix("job_")[:SHORT_ID]
    name = re.sub(r"-{2,}", "-", model_id.rsplit("/", 1)[-1])[: MAX_PART - SHORT_ID - 1].rstrip(".-")
    return f"{DEFAULT_NAMESPACE}/{name}-{short}"
