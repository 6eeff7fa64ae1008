"""Run by vLLM's Python: `engine.py FOLDER '{"argument of LLM": ...}' PROMPTS COUNT`: a whole engine in float32.

Prints one line of JSON: for each prompt (lists of ids) the COUNT greedy tokens and the log-probability of each.
"""

import json
import os
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from vllm import LLM, SamplingParams


def main() -> None:
    folder, arguments, prompts, count = sys.argv[1:]
    engine = LLM(model=folder, dtype="float32", max_model_len=64, seed=0, **json.loads(arguments))
    sampling = SamplingParams(temperature=0, max_tokens=int(count), logprobs=1, ignore_eos=True)
    answers = engine.generate([{"prompt_token_ids": ids} for ids in json.loads(prompts)], sampling)
    found = []
    for answer in answers:
        tokens = list(answer.outputs[0].token_ids)
        steps = zip(answer.outputs[0].logprobs, tokens, strict=True)
        found.append({"tokens": tokens, "log_p": [step[token].logprob for step, token in steps]})
    sys.stdout.write("RESULT " + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
