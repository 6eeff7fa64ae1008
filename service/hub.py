"""Published files as repositories of a model hub. No HTTP here, and no state of its own: jobs and their files are all.

A repository is every job that published under its name; each of them is a commit that never changes. `main` is the job
that was posted last among them; a job's id and `r30` (30 % of the columns removed) are tags.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from service.errors import FileNotFound, RepositoryNotFound, RevisionNotFound
from service.jobs import Job, Status
from service.ports import ArtifactStore, JobFilter, JobStore, StoredFile

MAIN = "main"
MAX_COMMITS = 100  # older publications under one name are to be had as files of their jobs


@dataclass(frozen=True)
class Commit:
    """One publication. `id`: 40 hex digits that follow from the paths and contents of its files."""

    id: str
    job_id: str
    time: datetime
    tags: tuple[str, ...]
    files: tuple[StoredFile, ...]

    @classmethod
    def of(cls, job: Job, files: list[StoredFile]) -> Self:
        listing = "".join(f"{file.sha256} {file.path}\n" for file in files)
        ratio = (job.result or {}).get("ratio")
        tags = (job.id,) if ratio is None else (job.id, f"r{round(100 * ratio)}")
        return cls(
            hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest(),
            job.id,
            job.finished or job.created,
            tags,
            tuple(files),
        )

    def below(self, folder: str) -> tuple[StoredFile, ...]:
        """The files in a folder and its sub-folders; FileNotFound when there are none. '': all."""
        prefix = f"{folder}/" if folder else ""
        found = tuple(file for file in self.files if file.path.startswith(prefix))
        if not found:
            raise FileNotFound(f"there is no folder {folder!r} in {self.job_id}; list the files to see their names")
        return found


@dataclass(frozen=True)
class Repository:
    """At least one commit, newest first."""

    id: str
    commits: tuple[Commit, ...]

    @property
    def main(self) -> Commit:
        return self.commits[0]

    @property
    def tags(self) -> dict[str, Commit]:
        """Of several commits with the same tag, the newest has it."""
        return {tag: commit for commit in reversed(self.commits) for tag in commit.tags}

    def commit(self, revision: str) -> Commit:
        """The commit that `main`, a tag or a commit id means; RevisionNotFound."""
        named = {MAIN: self.main} | self.tags | {commit.id: commit for commit in self.commits}
        if revision not in named:
            raise RevisionNotFound(
                f"{self.id} has no revision {revision[:100]!r}; use main, a job's id or one like r30"
            )
        return named[revision]


def open_repository(
    store: JobStore, artifacts: ArtifactStore, repository_id: str, owner: str | None = None
) -> Repository:
    """RepositoryNotFound unless a job (of this owner) that has succeeded published under this name."""
    published = JobFilter(status=Status.SUCCEEDED, repository=repository_id, owner=owner)
    jobs = store.page(published, MAX_COMMITS, None).jobs
    commits = tuple(Commit.of(job, files) for job in jobs if (files := artifacts.files(job.id)))
    if not commits:
        raise RepositoryNotFound(
            f"there is no repository {repository_id[:200]}; GET /v1/models lists those that are here"
        )
    return Repository(repository_id, commits)
