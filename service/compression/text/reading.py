"""How a model is read: what loads it, what it is given, and which tokens it predicts from which context.

Chosen by the type of task that the architecture was built for, never by family. What the engine does after this knows
hidden states and the tokens they should predict, and nothing of where they come from.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from service.compression.text.corpus import Frame, Text, WindowSettings, frame_of, make_windows, read_documents
from service.compression.text.denoising import infilled, with_sentinels
from service.compression.text.examples import Examples, masked_examples, next_token_examples, taught_examples
from service.compression.text.grouped_windows import grouped_windows, read_groups
from service.compression.text.pairs import read_pairs, split_pairs
from service.foundation.errors import CorpusNotText, UnsupportedModel

MASKED_SHARE = 0.15
SENTINEL = re.compile(r"<extra_id_(\d+)>")


class Objective(StrEnum):
    """What a type of model is trained to predict."""

    CAUSAL = "causal"  # the next token
    MASKED = "masked"  # hidden tokens, from both sides
    DENOISING = "denoising"  # a text, from a damaged copy of it
    PAIRS = "pairs"  # a text, from the one that the corpus puts beside it

    @property
    def perplexity(self) -> str:
        """The name of its perplexity: hidden tokens, predicted one by one, make no probability of the text."""
        return "pseudo-perplexity" if self is Objective.MASKED else "perplexity"


# Of each, the class of transformers that loads it, and the name of the mapping that lists the architectures.
AUTO_CLASSES = {
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    # Before masked: transformers lists BART there too.
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
}
OBJECTIVES = {"AutoModelForCausalLM": Objective.CAUSAL, "AutoModelForMaskedLM": Objective.MASKED}


@dataclass(frozen=True)
class CorpusReading:
    """How a model reads a text, and the class that loads it."""

    objective: Objective
    auto_class: str


@dataclass(frozen=True, eq=False)
class ReadCorpus:
    """A model's examples of a corpus, in two disjoint parts."""

    calibration: Examples
    evaluation: Examples
    split: str  # "document", "window" or "pair"
    starts_with_bos: bool
    groups: list[str] | None = None  # of each evaluation window, where the corpus names groups


def reading_of(config: dict[str, Any], text: Text) -> CorpusReading:
    """How a model of this config.json reads the text. UnsupportedModel where it predicts no tokens or is not known."""
    from transformers.models.auto import modeling_auto

    architecture = config["architectures"][0]
    for auto_class, mapping in AUTO_CLASSES.items():
        known = getattr(modeling_auto, mapping).get(config["model_type"], ())
        if architecture in ((known,) if isinstance(known, str) else known):
            objective = OBJECTIVES.get(auto_class, Objective.PAIRS if text.pair else Objective.DENOISING)
            if text.pair and objective is not Objective.PAIRS:
                raise CorpusNotText(
                    f"the field {text.field!r} names pairs; {architecture} reads one text: name one field"
                )
            return CorpusReading(objective, auto_class)
    raise UnsupportedModel(f"{architecture} is no language model that this transformers release knows")


def read_corpus(
    reading: CorpusReading, tokenizer: Any, config: Any, text: Text, settings: WindowSettings
) -> ReadCorpus:
    """The text in windows. config: the loaded model's. Raises what make_windows, split_pairs and files raise."""
    frame = frame_of(tokenizer)
    if text.group_field and (text.format != "jsonl" or text.pair):
        raise CorpusNotText("options.group_field names a field of JSON lines with one text each; send such a corpus")
    if text.pair:
        pairs = split_pairs(tokenizer, read_pairs(text), settings, frame)
        taught = [
            _taught([source for source, _ in part], [target for _, target in part], tokenizer, config) for part in pairs
        ]
        return ReadCorpus(taught[0], taught[1], "pair", bool(frame.before))
    if reading.objective is Objective.CAUSAL:
        frame = Frame(before=frame.before)
    groups = None
    if text.group_field:
        windows, groups = grouped_windows(tokenizer, read_groups(text, settings), settings, frame)
    else:
        documents = read_documents(text.path, text.format, text.field)
        windows = make_windows(tokenizer, documents, settings, frame, one_document=text.format != "jsonl")
    generator = torch.Generator().manual_seed(settings.seed)
    parts = [
        examples_of(reading.objective, rows, tokenizer, config, frame, generator)
        for rows in (windows.calibration, windows.evaluation)
    ]
    return ReadCorpus(parts[0], parts[1], windows.split, bool(frame.before), groups)


def examples_of(
    objective: Objective, rows: Tensor, tokenizer: Any, config: Any, frame: Frame, generator: torch.Generator
) -> Examples:
    """Examples of framed windows, (windows, window) ids. UnsupportedModel if the tokenizer cannot."""
    if objective is Objective.CAUSAL:
        return next_token_examples(rows)
    if objective is Objective.MASKED:
        return _masked(rows, tokenizer, generator)
    bodies = rows[:, len(frame.before) : rows.shape[1] - len(frame.after)]
    damage = _damage_by(tokenizer)
    damaged = [damage(body, generator) for body in bodies]
    # An infilled source can be a little longer than its text, where masks stand for nothing: the model has no room.
    sources = [frame.around(source[: bodies.shape[1]]) for source, _ in damaged]
    return _taught(sources, [frame.around(target) for _, target in damaged], tokenizer, config)


def _masked(rows: Tensor, tokenizer: Any, generator: torch.Generator) -> Examples:
    if tokenizer.mask_token_id is None:
        raise UnsupportedModel("the tokenizer has no mask token, which a masked language model is read with")
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
    return masked_examples(
        rows, tokenizer.mask_token_id, torch.tensor(sorted(special)), ordinary, MASKED_SHARE, generator
    )


def _damage_by(tokenizer: Any) -> Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]:
    """Makes (source, target) of a text, in the form that the tokenizer has tokens for."""
    if tokenizer.mask_token_id is not None:
        return lambda body, generator: (infilled(body, tokenizer.mask_token_id, generator), body)
    sentinels = _sentinels(tokenizer)
    if len(sentinels) < 2:
        raise UnsupportedModel(
            "the tokenizer has neither a mask token nor sentinels <extra_id_0>, <extra_id_1>, ...: send a corpus of "
            "pairs as JSON lines, with field=source,target"
        )
    return lambda body, generator: with_sentinels(body, sentinels, generator)


def _sentinels(tokenizer: Any) -> list[int]:
    found = {
        int(match[1]): index for token, index in tokenizer.get_vocab().items() if (match := SENTINEL.fullmatch(token))
    }
    return [found[number] for number in sorted(found)]


def _taught(sources: list[Tensor], targets: list[Tensor], tokenizer: Any, config: Any) -> Examples:
    start = getattr(config, "decoder_start_token_id", None)
    if start is None or tokenizer.pad_token_id is None:
        raise UnsupportedModel("an encoder-decoder needs decoder_start_token_id in its config and a padding token")
    return taught_examples(sources, targets, start, tokenizer.pad_token_id)
