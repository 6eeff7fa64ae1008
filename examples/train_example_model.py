"""Train the example model: a small GPT-2 that has read the standard library's docstrings, on one CPU core.

The demo must not depend on a download, so its model is made from text that every Python has: the ``train`` part
of ``stdlib_docstrings.py`` and the language reference behind ``help()``, with the train part's source code mixed
in (less and less of it), because so few docstrings alone would soon be learnt by heart. The ``held-out`` part is
used for measuring and for nothing else.

    python -m examples.train_example_model --minutes 40
"""

import argparse
import copy
import csv
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from examples import stdlib_docstrings

VOCABULARY = 8192
WINDOW = 256
BATCH = 8
END_OF_TEXT = "<|endoftext|>"
LOSS_ROWS = 512  # logits computed at a time: few enough to stay in the processor's cache
HELD_OUT_SAMPLE = 4  # while training, every fourth held-out window is measured; at the end, all of them
OUTPUT = Path(__file__).parent / "models" / "headroom" / "stdlib-gpt2-4m"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What the command line can change about a run."""

    output: Path
    seconds: float
    steps: float
    seed: int
    peak_rate: float
    save_every: float = 480.0
    report_every: int = 100
    warmup_steps: int = 100

    def progress(self, step: int, elapsed: float) -> float:
        """How much of the budget is used, from 0 to 1, whichever of time and steps runs out first."""
        return min(1.0, max(step / self.steps, elapsed / self.seconds))

    def rate(self, step: int, progress: float) -> float:
        """Warm-up, then a cosine down to nearly nothing."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak_rate * min(1.0, (step + 1) / self.warmup_steps) * (0.02 + 0.98 * cosine)


@dataclass(frozen=True)
class TrainingText:
    """Token ids: two streams to train on, and the held-out part cut into windows that do not overlap."""

    prose: Tensor
    code: Tensor
    held_out: Tensor

    def __str__(self) -> str:
        sizes = (self.prose.numel(), self.code.numel(), self.held_out.numel())
        return "tokens: {:,} of prose, {:,} of code, {:,} held out".format(*sizes)


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2's: any text can be encoded, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=WINDOW,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """All texts as one row of token ids, each closed by the end-of-text token."""
    encodings = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return torch.tensor([token for encoding in encodings for token in (*encoding.ids, tokenizer.eos_token_id)])


def build_model() -> GPT2LMHeadModel:
    """GPT-2's architecture with tied embeddings, small enough for a repository."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=WINDOW,
        n_embd=192,
        n_layer=6,
        n_head=3,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own gelu, in one call
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def build_optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, which learn faster with it; AdamW for everything else."""
    matrices, others = list[torch.nn.Parameter](), list[torch.nn.Parameter]()
    for name, weight in model.named_parameters():
        (matrices if weight.dim() == 2 and ".h." in name else others).append(weight)
    return [
        torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def summed_loss(model: GPT2LMHeadModel, windows: Tensor) -> Tensor:
    """The next-token loss of every position, summed, a few rows of logits at a time."""
    hidden = model.transformer(input_ids=windows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    targets = windows[:, 1:].flatten()
    total = torch.zeros(())
    for rows, wanted in zip(hidden.split(LOSS_ROWS), targets.split(LOSS_ROWS), strict=True):
        total = total + cross_entropy(model.lm_head(rows).float(), wanted, reduction="sum")
    return total


@torch.inference_mode()
def mean_loss(model: GPT2LMHeadModel, windows: Tensor) -> float:
    """The loss in nats per predicted token, with no context carried from one window to the next."""
    model.eval()
    total = sum(float(summed_loss(model, batch)) for batch in windows.split(BATCH))
    model.train()
    return total / (windows.shape[0] * (windows.shape[1] - 1))


def read_text() -> tuple[PreTrainedTokenizerFast, TrainingText]:
    """Collect the text, train the tokenizer on the prose of the train part, and encode everything with it."""
    corpus = stdlib_docstrings.corpus()
    prose = [*corpus["train"], *stdlib_docstrings.help_topics()]
    tokenizer = train_tokenizer(prose)
    held_out = token_stream(tokenizer, corpus["held-out"])
    count = len(held_out) // WINDOW
    text = TrainingText(
        prose=token_stream(tokenizer, prose),
        code=token_stream(tokenizer, stdlib_docstrings.training_sources()),
        held_out=held_out[: count * WINDOW].view(count, WINDOW),
    )
    return tokenizer, text


def training_batch(text: TrainingText, prose_share: float) -> Tensor:
    """Windows from random places, so that no epoch cuts the text as the one before did."""
    rows = []
    for from_prose in (torch.rand(BATCH) < prose_share).tolist():
        stream = text.prose if from_prose else text.code
        start = int(torch.randint(len(stream) - WINDOW, ()))
        rows.append(stream[start : start + WINDOW + 1])
    return torch.stack(rows)


def training_step(model: GPT2LMHeadModel, optimizers: list[torch.optim.Optimizer], batch: Tensor, rate: float) -> float:
    """One update of the weights; returns the batch's loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = summed_loss(model, batch) / (BATCH * WINDOW)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Store bf16 weights, configuration and tokenizer; each file is replaced whole, for readers at any time."""
    output.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        settings = partial / "tokenizer_config.json"  # name the tokenizer's class as every release knows it
        settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
        for path in sorted(partial.iterdir()):
            path.chmod(0o644)
            path.replace(output / path.name)
    finally:
        shutil.rmtree(partial)


def training_rows(
    recipe: Recipe, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, text: TrainingText
) -> Iterator[tuple[int, int, str, str, str]]:
    """Train until the budget is used; yields the rows of ``loss.csv`` as they become known.

    Seconds are processor time, so that a run on a busy machine gives as good a model as one on an idle machine.
    """
    optimizers = build_optimizers(model)
    started, last_save = time.process_time(), time.monotonic()
    step, progress, losses = 0, 0.0, list[float]()
    while progress < 1.0:
        batch = training_batch(text, prose_share=0.2 + 0.7 * progress)
        losses.append(training_step(model, optimizers, batch, recipe.rate(step, progress)))
        step += 1
        elapsed = time.process_time() - started
        progress = recipe.progress(step, elapsed)
        if step % recipe.report_every == 0 or progress >= 1.0:
            held_out = mean_loss(model, text.held_out[::HELD_OUT_SAMPLE])
            mean = sum(losses) / len(losses)
            yield step, step * BATCH * WINDOW, f"{elapsed:.0f}", f"{mean:.4f}", f"{held_out:.4f}"
            losses.clear()
        if progress >= 1.0 or time.monotonic() - last_save > recipe.save_every:
            save(model, tokenizer, recipe.output)
            last_save = time.monotonic()


def train(recipe: Recipe) -> None:
    """Run the whole recipe: text, tokenizer, model, training, and a last measurement of what was stored."""
    torch.manual_seed(recipe.seed)
    tokenizer, text = read_text()
    model = build_model()
    logger.info("%d parameters; %s", model.num_parameters(), text)
    recipe.output.mkdir(parents=True, exist_ok=True)
    with (recipe.output / "loss.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["step", "tokens", "seconds", "train_loss", "heldout_loss"])
        for row in training_rows(recipe, model, tokenizer, text):
            table.writerow(row)
            stream.flush()
            logger.info("step %d, tokens %d, seconds %s, loss: training %s, held out %s", *row)
    stored = GPT2LMHeadModel.from_pretrained(recipe.output, dtype=torch.float32)
    loss = mean_loss(stored, text.held_out)
    logger.info("stored weights on the whole held-out part: loss %.4f, perplexity %.2f", loss, math.exp(loss))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the example model within a budget of minutes or steps."""
    parser = argparse.ArgumentParser(description="Train the example model on this Python's docstrings.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the model's folder")
    parser.add_argument("--minutes", type=float, default=40.0, help="of one core (default: %(default)s)")
    parser.add_argument("--steps", type=float, default=math.inf, help="stop after this many steps, if sooner")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--peak-rate", type=float, default=4e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    train(
        Recipe(
            output=options.output,
            seconds=options.minutes * 60,
            steps=options.steps,
            seed=options.seed,
            peak_rate=options.peak_rate,
        )
    )


if __name__ == "__main__":
    main()
