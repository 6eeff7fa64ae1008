"""vLLM reads headroom checkpoints: the entry point `vllm.general_plugins`, and all that is registered there.

Nothing of vLLM is patched. Its own extension points do: a quantization config, out-of-tree subclasses of the two layers
with a row for each token, and a loader that checks what was loaded.
"""

import logging


def register() -> None:
    """Make vLLM read headroom checkpoints. vLLM calls it in each of its processes, more than once."""
    from vllm.config import LoadConfig
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.model_loader import DefaultModelLoader, get_model_loader, register_model_loader

    from headroom.vllm.layers import ConfiguredLMHead, ConfiguredVocabEmbedding
    from headroom.vllm.loader import LOAD_FORMATS, CheckedLoader
    from headroom.vllm.quantization import HeadroomQuantization

    if VocabParallelEmbedding.__name__ in op_registry_oot:
        return
    register_quantization_config("headroom")(HeadroomQuantization)
    VocabParallelEmbedding.register_oot(name=VocabParallelEmbedding.__name__)(ConfiguredVocabEmbedding)
    ParallelLMHead.register_oot(name=ParallelLMHead.__name__)(ConfiguredLMHead)
    log = logging.getLogger(get_model_loader.__module__)
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that these formats had a loader: ours is that loader and one check
    for load_format in LOAD_FORMATS:
        if type(get_model_loader(LoadConfig(load_format=load_format))) is DefaultModelLoader:
            register_model_loader(load_format)(CheckedLoader)
    log.setLevel(level)
