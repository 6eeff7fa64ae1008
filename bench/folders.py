"""Where results are kept, and models and texts are found."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results"
SHARED = ROOT.parent / "shared"  # small reference models and texts
MODELS = Path(os.environ.get("HEADROOM_BENCH_MODELS", ROOT / ".models"))  # of `make models`
