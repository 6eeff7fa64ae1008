"""Published files as repositories of a model hub. No HTTP here, and no state of its own: jobs and their files are all.

A repository is every job that published under its name; each of them is a commit that never changes, and so is each
further point of its curve that it stored. `main` is the job that was posted last among them; a job's id, `r30` (30 % of
the columns removed) and `k448` (448 kept) are tags.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from headroom.contract.answers.job import Status
from service.foundation.errors import FileNotFound, RepositoryNotFound, RevisionNotFound
from service.ports.files import ArtifactStore, StoredFile, pick_file
from service.ports.jobs import JobFilter, JobStore
from service.publishing.revisions import of_revision, revision_folder, revision_name
from service.records.job import Job

MAIN = "main"
MAX_COMMITS = 100  # older publications under one name are to be had as files of their jobs


@dataclass(frozen=True)
class Commit:
    """One publication. `id`: 40 hex digits that follow from the paths and contents of its files.

    `folder`: where the job has the files of a further point; the paths of `files` are those in it.
    """

    id: str
    job_id: str
    time: datetime
    tags: tuple[str, ...]
    files: tuple[StoredFile, ...]
    folder: str = ""

    @classmethod
    def all_of(cls, job: Job, files: list[StoredFile]) -> list[Self]:
        """The checkpoint that was chosen, then its further points."""
        by_path, result = {file.path: file for file in files}, job.result or {}
        found = [cls._of(job, "", [job.id, *_tags(job, result)], by_path)]
        for point in result.get("revisions") or ():
            found.append(cls._of(job, revision_folder(point["kept_columns"]), _tags(job, point), by_path))
        return found

    @classmethod
    def _of(cls, job: Job, folder: str, tags: list[str], by_path: dict[str, StoredFile]) -> Self:
        files = [replace(file, path=path) for path, file in of_revision(by_path, folder).items()]
        listing = "".join(f"{file.sha256} {file.path}\n" for file in files)
        commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
        return cls(commit, job.id, job.finished or job.created, tuple(tags), tuple(files), folder)

    def stored(self, path: str) -> StoredFile:
        """One of its files, by its path among those of the job; FileNotFound."""
        file = pick_file(self.job_id, list(self.files), path)
        return replace(file, path=f"{self.folder}/{path}" if self.folder else path)

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
        """Commits by tag; of several with the same tag, the newest has it."""
        return {tag: commit for commit in reversed(self.commits) for tag in commit.tags}

    def commit(self, revision: str) -> Commit:
        """The commit that `main`, a tag or a commit id means; RevisionNotFound."""
        named = {MAIN: self.main} | self.tags | {commit.id: commit for commit in self.commits}
        if revision not in named:
            raise RevisionNotFound(
                f"{self.id} has no revision {revision[:100]!r}; use main, a job's id or one like r30 or k448"
            )
        return named[revision]


def _tags(job: Job, figures: Mapping[str, Any]) -> list[str]:
    ratio, kept = figures.get("ratio"), figures.get("kept_columns")
    names = [] if kept is None else [f"{job.id}-{revision_name(kept)}", revision_name(kept)]
    return names if ratio is None else [*names, f"r{round(100 * ratio)}"]


def open_repository(
    store: JobStore, artifacts: ArtifactStore, repository_id: str, owner: str | None = None
) -> Repository:
    """RepositoryNotFound unless a job (of this owner) that has succeeded published under this name."""
    published = JobFilter(status=Status.SUCCEEDED, repository=repository_id, owner=owner)
    jobs = store.page(published, MAX_COMMITS, None).jobs
    commits = tuple(
        commit for job in jobs if (files := artifacts.files(job.id)) for commit in Commit.all_of(job, files)
    )
    if not commits:
        raise RepositoryNotFound(
            f"there is no repository {repository_id[:200]}; GET /v1/models lists those that are here"
        )
    return Repository(repository_id, commits)
