"""Run by vLLM's Python: `-m bench.head.vllm_engine FOLDER BATCH...`; seconds of a step at each batch, as JSON."""

import json
import sys
import time

from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

PROMPT, STEPS, REPEATS = 16, 32, 3


def main() -> None:
    folder, *batches = sys.argv[1:]
    most = max(map(int, batches))
    engine = LLM(
        model=folder, skip_tokenizer_init=True, max_model_len=128, max_num_seqs=most, enable_prefix_caching=False
    )
    steps = {batch: [_step(engine, int(batch)) for _ in range(1 + REPEATS)][1:] for batch in batches}
    sys.stdout.write("RESULT " + json.dumps({"device": current_platform.device_type, "steps": steps}) + "\n")


def _step(engine: LLM, batch: int) -> float:
    """Of one further token for each of `batch` sequences: a long answer less a short one."""
    return (_seconds(engine, batch, 1 + STEPS) - _seconds(engine, batch, 1)) / STEPS


def _seconds(engine: LLM, batch: int, tokens: int) -> float:
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": [row + 1] * PROMPT} for row in range(batch)]
    started = time.perf_counter()
    engine.generate(prompts, sampling, use_tqdm=False)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
