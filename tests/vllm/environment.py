"""Where vLLM's own environment is: it pins other versions than ours. `make test-vllm` makes it."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
VLLM_PYTHON = Path(os.environ.get("HEADROOM_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
