"""SmolLM2-135M with its head in planes: made by a job, served by vLLM, compared with transformers + headroom.

Needs `make models`, or HEADROOM_REFERENCE_MODELS, a folder with smollm2-135m in it.
"""

import os
from pathlib import Path

import pytest
import transformers

from service.compression.jobs.compress import compress
from service.ports.engine import CorpusFile, EngineTask, Verdict
from service.ports.models import LocalModel
from tests.factories import make_recipe
from tests.vllm.environment import ROOT
from tests.vllm.running import expected
from tests.vllm.serving import completed, serving

MODEL = Path(os.environ.get("HEADROOM_REFERENCE_MODELS", ROOT / ".models/reference")) / "smollm2-135m"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not MODEL.is_dir(), reason="`make models` fetches SmolLM2-135M"),
]

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "In 1969 the first people walked on",
)
COUNT = 24
OPTIONS = {"head_dtype": "planes", "calibration_tokens": 2048, "evaluation_tokens": 1024, "window": 256, "compare": []}


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that a job makes, calibrated on documents of this repository."""
    work = tmp_path_factory.mktemp("smollm2")
    (work / "out").mkdir()
    (work / "corpus.txt").write_text("\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
    recipe = make_recipe(ratio="auto", drift={"perplexity": 0.05, "kl": 0.05}, options=OPTIONS)
    local, corpus = LocalModel("reference/smollm2-135m", None, MODEL), CorpusFile(work / "corpus.txt", "text", None)
    task = EngineTask("job_v", recipe, (local,), (corpus,), work / "cache", work / "out", "cpu")
    assert compress(task, lambda phase, fraction: None).verdict is Verdict.PUBLISH
    return work / "out"


def test_the_openai_route_answers_for_a_really_trained_model_what_transformers_does(slim: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(slim)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    with serving(str(slim), tmp_path) as address:
        found = [completed(address, str(slim), prompt, COUNT) for prompt in prompts]
    for answer, want in zip(found, expected(slim, prompts, COUNT), strict=True):
        assert answer["tokens"] == want["tokens"]
        assert answer["log_p"] == pytest.approx(want["log_p"], abs=1e-3)
    assert "reproduces the fingerprint" in (tmp_path / "server.log").read_text()
