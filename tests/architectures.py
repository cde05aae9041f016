"""Tiny random models of the architectures that people fine-tune, with tokenizers of their own classes; nothing is downloaded."""

from pathlib import Path
from typing import Any

from tests.tokenizers_made import make_tokenizer

ENCODERS = ("bert", "distilbert", "roberta", "deberta-v2", "modernbert", "electra")
DECODERS = ("gpt2", "gpt_neo", "llama", "qwen2")
ENCODER_DECODERS = ("t5", "bart")
ARCHITECTURES = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)

# Two layers of width 32, in each architecture's own words.
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SIZES: dict[str, dict[str, Any]] = {
    "bert": _ENCODER | {"max_position_embeddings": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    # Its positions count from the pad token's number on.
    "roberta": _ENCODER | {"max_position_embeddings": 66, "type_vocab_size": 1},
    "deberta-v2": _ENCODER
    | {
        "max_position_embeddings": 64,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "modernbert": _ENCODER | {"max_position_embeddings": 64, "global_attn_every_n_layers": 2, "local_attention": 16},
    "electra": _ENCODER | {"embedding_size": 16, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 64,
        "window_size": 16,
    },
    "llama": _ENCODER | {"num_key_value_heads": 1, "max_position_embeddings": 64},
    "qwen2": _ENCODER | {"num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True},
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
    },
}
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def make_architecture(name: str, folder: Path, *, auto_class: str = "AutoModel", seed: int = 0) -> Path:
    """Save a base model (or one of another Auto class) of an architecture with its tokenizer, and return the folder."""
    import torch
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(name)
    # Those that it lacks are left as the architecture has them, unless they are no tokens of so small a vocabulary.
    special: dict[str, int | None] = {key: getattr(tokenizer, key) for key in _SPECIAL if getattr(tokenizer, key) is not None}
    if name in ("gpt2", "gpt_neo", "llama", "qwen2", "modernbert"):
        special = dict.fromkeys(_SPECIAL) | special
    if name in ENCODER_DECODERS:
        special["decoder_start_token_id"] = tokenizer.pad_token_id if name == "t5" else tokenizer.eos_token_id
    config = transformers.AutoConfig.for_model(name, vocab_size=len(tokenizer), **_SIZES[name], **special)
    # As the models' own would, small ones learn next to nothing from weights of 0.02 and smaller.
    config.initializer_range = config.init_std = 0.1
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
