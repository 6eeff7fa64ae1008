"""Which files beside the weights belong to a model: configuration, tokenizer, templates."""

SIDE_FILE_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken"}
