"""What an analyze job is asked: how token probability is encoded in the output embedding. A report, no files."""

from typing import Literal

from headroom.contract.job_recipe import JobRecipe


class AnalyzeRecipe(JobRecipe):
    """The body of POST /v1/jobs for kind `analyze`."""

    kind: Literal["analyze"]
