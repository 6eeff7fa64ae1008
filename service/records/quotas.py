"""How much one owner may have at a time. What a server asks no key for is not limited."""

from dataclasses import dataclass

from service.foundation.errors import QuotaExceeded


@dataclass(frozen=True)
class Quotas:
    """0: no limit."""

    max_jobs: int = 0  # queued, running or canceling
    max_bytes: int = 0  # files of jobs and corpora together

    def check_jobs(self, unfinished: int) -> None:
        """Whether there may be one more. QuotaExceeded."""
        if self.max_jobs and unfinished >= self.max_jobs:
            raise QuotaExceeded(
                f"{unfinished} of at most {self.max_jobs} jobs have not ended; wait for one, or cancel one"
            )

    def check_bytes(self, used: int) -> None:
        """Whether anything may be added. QuotaExceeded."""
        if self.max_bytes and used >= self.max_bytes:
            raise QuotaExceeded(
                f"{used:,} of at most {self.max_bytes:,} bytes are stored; delete jobs or corpora that are not needed"
            )

    def check_fit(self, used: int, size: int, what: str) -> None:
        """Whether `what`, of `size` bytes, may be added. QuotaExceeded."""
        if self.max_bytes and used + size > self.max_bytes:
            raise QuotaExceeded(
                f"with {what} of {size:,} bytes {used + size:,} of at most {self.max_bytes:,} would be stored; delete "
                "jobs or corpora that are not needed"
            )


NO_QUOTAS = Quotas()
