"""The main job from end to end on this machine: serve, compress, look at the drift, load the checkpoint, generate.

    python examples/demo.py                                                    needs no network
    python examples/demo.py --model openai-community/gpt2 --corpus text.txt    fetches the model from the hub

Without arguments it takes the small model in `models/` and the docstrings of this Python's standard library that the
model never saw. Everything it makes goes to demo-output/. The exit code is 0 if a checkpoint was made and generates.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from headroom.client.client import Client
from headroom.client.job import Job
from headroom.commands.terminal.signals import signals_as_interrupts
from headroom.contract.report.report import CompressReport, open_report
from headroom.errors import HeadroomError
from headroom.local.embedded import EmbeddedServer
from headroom.views.figures import percent, size
from headroom.views.progress import display_for
from headroom.views.rendering import bytes_view, console_for, drift_view, places_view, remarks_view, show, verdict

HERE = Path(__file__).resolve().parent
MODELS_DIR = HERE / "models"
DEFAULT_MODEL = "headroom/stdlib-gpt2-4m"
PROMPT = "Return a list of the"
LARGEST_DRIFT = 0.01
LARGEST_KL = 0.02  # nats; the small model has learnt its text too well, and pruning alone would lower its perplexity
# Its own process: only what a user installs, told nothing but the folder.
GENERATE = """
import sys
import headroom
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
torch.manual_seed(0)
tokens = tokenizer(prompt, return_tensors="pt")
output = model.generate(**tokens, max_new_tokens=40, do_sample=True, top_k=20, pad_token_id=tokenizer.eos_token_id)
print(" ".join(tokenizer.decode(output[0], skip_special_tokens=True).split()))
"""


def run_demo(console: Console, model: str, corpus: Path | None, output: Path) -> int:
    """Every step in turn; the exit code of the first that fails."""
    checkpoint = output / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)  # of an earlier demo
    models_dir = MODELS_DIR if (MODELS_DIR / model).is_dir() else None
    step(console, "Service", "broker, API, worker and sweeper are starting")
    with EmbeddedServer(output / "data", models_dir, port=0) as server, Client(server.url) as client:
        step(console, "", f"ready at {server.url}, data in {output / 'data'}")
        corpus = corpus or make_corpus(output / "held-out.jsonl")
        step(console, "Corpus", f"{corpus}, {size(corpus.stat().st_size)}")
        job = client.compress(model, corpus, ratio="auto", max_drift=LARGEST_DRIFT, kl_budget=LARGEST_KL)
        step(
            console,
            "Job",
            f"the smallest head of {model} within {percent(LARGEST_DRIFT)} perplexity, {LARGEST_KL} nats of KL",
        )
        step(console, "", f"{server.url}/v1/jobs/{job.id}")
        follow(job)
        if job.status != "succeeded":
            return explain(console, job)
        job.download(checkpoint)
        console.print()
        report = measured(job)
        show(console, drift_view(job.record, report), bytes_view(report), "", places_view(checkpoint, report))
        show(console, "", verdict(job.record), remarks_view(report), "")
    return generate(console, checkpoint)


def follow(job: Job) -> None:
    with display_for(console_for(sys.stderr)) as display:
        job.wait(on_update=lambda job: display.update(job.record))


def measured(job: Job) -> CompressReport:
    report = open_report(job.report())
    assert isinstance(report, CompressReport), "the demo posts a compress job"
    return report


def explain(console: Console, job: Job) -> int:
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


def generate(console: Console, checkpoint: Path) -> int:
    """Load the checkpoint as a user would, in a process of its own and without a network."""
    step(console, "Generate", "the checkpoint is loaded in a clean process")
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", GENERATE, str(checkpoint), PROMPT]
    done = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        show(console, Text(f"  {done.stdout.strip()}", "italic"))
    return done.returncode


def step(console: Console, name: str, text: str) -> None:
    show(console, Text.assemble((f"{name:<10}", "bold"), text))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compress a model and use the result, all on this machine.")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="default: %(default)s")
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
