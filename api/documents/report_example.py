"""A short report of a compress job, for the OpenAPI document: a head of four columns, of which two stayed."""

from typing import Any

from headroom.contract.report.curve import AllowedDrift, Baseline, CurvePoint, JudgedPoint
from headroom.contract.report.encoding import Encoding, SparsityPoint
from headroom.contract.report.report import VERSION, CompressReport, as_document
from headroom.contract.report.source import CorpusOfReport, HeadOfReport, LoadedModel
from headroom.contract.report.stored import ByteCounts

POINT = CurvePoint(
    ratio=0.5,
    kept_columns=2,
    perplexity=20.1,
    perplexity_drift=0.005,
    perplexity_drift_low=0.004,
    perplexity_drift_high=0.006,
    kl_mean=0.004,
    kl_p95=0.02,
    kl_p99=0.05,
    top1_agreement=0.98,
)


def report_example(job_id: str, model_id: str) -> dict[str, Any]:
    """A compress report with what each has; a real one has a longer curve, and bands, corpora, continuations beside."""
    report = CompressReport(
        version=VERSION,
        kind="compress",
        job_id=job_id,
        model=LoadedModel(id=model_id, revision=None, digest="9f86d081", auto_class="AutoModelForCausalLM"),
        versions={"torch": "2.13.0"},
        seed=0,
        device="cpu",
        head=HeadOfReport(vocab_size=8, hidden_size=4, tied=False, bias=False, dtype="bfloat16"),
        corpus=CorpusOfReport(
            digest="2c26b46b",
            objective="causal",
            calibration_tokens=4096,
            evaluation_tokens=8192,
            evaluation_windows=16,
            window=512,
        ),
        encoding=Encoding(
            r2=0.9,
            r2_adjusted=0.89,
            r2_held_out=0.88,
            spearman=0.8,
            slope_cosine_mean_hidden=0.7,
            sparsity=(SparsityPoint(columns=1, r2=0.6),),
            columns_needed={"0.9": 2},
            gini=0.4,
            slopes=(0.5, -2.0, 1.0, 0.1),
        ),
        method="probability",
        repair="mean",
        head_dtype="source",
        budget=AllowedDrift(perplexity=0.01, kl=0.01, group_gap=None),
        baseline=Baseline(perplexity=20.0, kind="perplexity"),
        curve=(POINT,),
        selected=JudgedPoint(**POINT.model_dump(exclude_unset=True), passes=True),
        largest_passing_ratio=0.5,
        bytes=ByteCounts(
            checkpoint_before=9000,
            checkpoint_after=8970,
            head_before=64,
            head_after=34,
            decode_read_before=8936,
            decode_read_after=8906,
        ),
        warnings=(),
        timing={"encoding": 4.1, "total": 9.8},
    )
    return as_document(report)
