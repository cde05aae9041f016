"""Models that write text: their settings, loading encoder-decoders and decoders, making an encoder-decoder out of an encoder.

Source: Rothe et al. 2020, Leveraging Pre-trained Checkpoints for Sequence Generation Tasks, section 3, BERT2BERT
(arXiv 1907.12461).
"""

import copy
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from tasks.config import Settings
from tasks.decoders import check_direction
from tasks.errors import ConfigError, ModelError
from tasks.pretrained import fresh_weights, load_config, load_pretrained, write_limit
from tasks.text import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DOCUMENT = "{document}"
"""What stands in a prompt's template for the text."""
_OWN_TOKENS = (
    *"pad_token_id bos_token_id eos_token_id decoder_start_token_id".split(),
    *"forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids".split(),
)
"""Which tokens a model starts, ends and may go on with: part of the model. All else about generating is a setting."""


class GenerationSettings(Settings):
    """How the model is asked, and how it writes."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"prefix", "template"})

    prefix: str | None = None
    """What comes before each text, e.g. `summarize:` for T5; a space is put between unless it ends in space."""
    template: str | None = None
    """Prompt of a decoder, with `{document}` where the text goes, e.g. `{document} TL;DR:`; empty for models with an encoder."""
    max_target_length: int = Field(64, ge=2, le=65_536)
    """Tokens of a summary to learn from; longer ones are truncated, and the report says how many."""
    max_new_tokens: int = Field(64, ge=1, le=65_536)
    """Tokens that the model writes at most."""
    min_new_tokens: int = Field(0, ge=0, le=65_536)
    """Tokens that it writes at least."""
    beams: int = Field(1, ge=1, le=64)
    """Beams of the search; 1 takes the most probable token each time."""
    length_penalty: float = Field(1.0, ge=-10, le=10)
    """Exponent of a text's length that its score is divided by: above 0 favours long texts, below 0 short ones; needs beams."""
    no_repeat_ngram: int = Field(0, ge=0, le=100)
    """Write no sequence of so many tokens twice; 0 allows it."""

    @model_validator(mode="after")
    def _settings_agree(self) -> "GenerationSettings":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"generation.min_new_tokens is {self.min_new_tokens}, above generation.max_new_tokens, {self.max_new_tokens}; "
                "lower it"
            )
        if self.beams == 1 and self.length_penalty != 1:
            raise ValueError(
                f"generation.length_penalty is {self.length_penalty}, which matters with several beams only; set "
                "generation.beams above 1 or leave it at 1"
            )
        if self.template is not None and DOCUMENT not in self.template:
            raise ValueError(f"generation.template is {self.template!r}, which has no place for the text; put {DOCUMENT} into it")
        if self.template is not None and self.prefix is not None:
            raise ValueError("generation.prefix and generation.template are both set; put the prefix into the template")
        return self

    @property
    def lead(self) -> str:
        """What is put before each text: the prefix, and a space unless it ends in space."""
        prefix = self.prefix or ""
        return prefix if prefix == "" or prefix[-1].isspace() else f"{prefix} "


def family(config: "PretrainedConfig") -> str:
    """Say what a model is by its configuration: `encoder-decoder`, `decoder`, `encoder`, or `other`."""
    from transformers.models.auto import modeling_auto

    own_code = getattr(config, "auto_map", None) or {}
    if config.is_encoder_decoder or "AutoModelForSeq2SeqLM" in own_code:
        return "encoder-decoder"
    # Encoders such as BERT are known as causal language models too, since they can be made to be decoders.
    can_be_causal = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in own_code
    if config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return "encoder"
    return "decoder" if can_be_causal else "other"


def load_generator(
    folder: Path, *, prompted: bool, kind: str, trained: bool, allow_pickle: bool, remote_code: bool
) -> "tuple[PreTrainedModel, str]":
    """Load a model that writes text, in fp32, and say where its head came from, in a word of `records.Head`.

    Args:
        folder: Its files.
        prompted: Whether it is a decoder that goes on with a prompt; else an encoder reads the text.
        kind: Name of the kind that wants it, for messages.
        trained: Whether the files are those of a model that was trained for the kind.
        allow_pickle: Whether pickled weights may be loaded.
        remote_code: Whether code that comes with it may be run.

    Raises:
        ModelError: the files do not make such a model.
    """
    config = load_config(folder, kind=kind, remote_code=remote_code)
    options: dict[str, Any] = {"kind": kind, "trained": trained, "allow_pickle": allow_pickle, "remote_code": remote_code}
    found = family(config)
    _check_family(folder, config, found, prompted=prompted)
    if found == "encoder":
        return _warm_start(folder, config, options), "warm-started"
    auto_class = "AutoModelForSeq2SeqLM" if found == "encoder-decoder" else "AutoModelForCausalLM"
    model = load_pretrained(auto_class, folder, config, **options)
    if found == "decoder":
        check_direction(folder, model)
    else:
        _quieten()
        _know_first_token(folder, model)
    return model, "trained" if trained else "fresh" if fresh_weights(model) else "pretrained"


def _check_family(folder: Path, config: "PretrainedConfig", found: str, *, prompted: bool) -> None:
    if found == "other":
        raise ModelError(f"Model {str(folder)!r} is of type {config.model_type!r}, which cannot write text; choose another.")
    if prompted and found != "decoder":
        raise ModelError(
            f"Model {str(folder)!r} ({config.model_type}) has an encoder, which reads the text without a prompt; leave "
            "generation.template empty, and set generation.prefix if the model wants one."
        )
    if not prompted and found == "decoder":
        raise ModelError(
            f"Model {str(folder)!r} ({config.model_type}) is a decoder alone, which needs a prompt; set generation.template, "
            "e.g. to '{document} TL;DR:'."
        )


def _know_first_token(folder: Path, model: "PreTrainedModel") -> None:
    """Have the configuration name the token that the decoder starts with: the model makes its training inputs with it."""
    if getattr(model.config, "decoder_start_token_id", None) is None:
        first = getattr(model.generation_config, "decoder_start_token_id", None)
        if first is None:
            raise ModelError(
                f"Model {str(folder)!r} does not say what its decoder starts with: set decoder_start_token_id in its config.json."
            )
        model.config.decoder_start_token_id = first


def _warm_start(folder: Path, config: "PretrainedConfig", options: dict[str, Any]) -> "PreTrainedModel":
    """Make an encoder-decoder both parts of which start as the encoder; the decoder's attention to the other is fresh."""
    from transformers import AutoTokenizer, EncoderDecoderModel

    if not _can_be_decoder(config):
        raise ModelError(
            f"Model {str(folder)!r} ({config.model_type}) is an encoder that transformers cannot make a decoder of; choose an "
            "encoder-decoder such as T5 or BART, a decoder, or an encoder such as BERT or RoBERTa."
        )
    decoder_config = copy.deepcopy(config)
    decoder_config.is_decoder = decoder_config.add_cross_attention = True
    with _unreported():
        encoder = load_pretrained("AutoModel", folder, config, **options)
        decoder = load_pretrained("AutoModelForCausalLM", folder, decoder_config, **options)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=options["remote_code"])
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise ModelError(f"Tokenizer of {str(folder)!r} cannot be loaded: {one_line(error, 200)}") from error
    last = end_token(tokenizer)
    for holder in (model.config, model.generation_config):
        assert holder is not None
        # As in BART, whose tokenizer puts a first token before each text too: that one is learnt, and forced.
        holder.decoder_start_token_id = holder.eos_token_id = last
        holder.pad_token_id = last if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model.generation_config.forced_bos_token_id = tokenizer.cls_token_id
    _quieten()
    return model


@contextmanager
def _unreported() -> Iterator[None]:
    """Keep transformers from listing the weights that are missing: the whole attention to the encoder is, as it should be."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _can_be_decoder(config: "PretrainedConfig") -> bool:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return model_class is not None and "encoder_hidden_states" in inspect.signature(model_class.forward).parameters


def _quieten() -> None:
    """Ignore what encoder-decoders made of two models say at every batch: how losses were computed before version 4.12."""
    warnings.filterwarnings("ignore", message="Version v4.12.0 introduces a better way", category=FutureWarning)


def end_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that ends a text.

    Raises:
        ModelError: the tokenizer has none.
    """
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise ModelError(
        "The model's tokenizer has no token that ends a text (eos_token), so no text would end; set it in its files."
    )


def configure_generation(model: "PreTrainedModel", settings: GenerationSettings) -> None:
    """Have a model write by these settings alone, now and when it is loaded from its saved files."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        **{name: getattr(own, name, None) for name in _OWN_TOKENS},
        do_sample=False,
        num_beams=settings.beams,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        no_repeat_ngram_size=settings.no_repeat_ngram or None,
        length_penalty=settings.length_penalty if settings.beams > 1 else None,
    )


def check_written(settings: GenerationSettings, config: "PretrainedConfig") -> None:
    """Check that the decoder of an encoder-decoder, which may take less than its encoder, can write as many tokens as is set.

    Raises:
        ConfigError: names the setting to lower.
    """
    limit = write_limit(config)
    for name in ("max_target_length", "max_new_tokens"):
        if (written := getattr(settings, name)) > limit:
            raise ConfigError(f"generation.{name} is {written}, but the model writes at most {limit} tokens; lower it.")


def check_lengths(settings: GenerationSettings, read: int, limit: int) -> None:
    """Check that a model that takes `limit` tokens can read `read` and write as many as is set.

    Raises:
        ConfigError: names the setting to lower.
    """
    for name in ("max_target_length", "max_new_tokens"):
        written = getattr(settings, name)
        if settings.template is None and written > limit:
            raise ConfigError(f"generation.{name} is {written}, but the model takes at most {limit} tokens; lower it.")
        if settings.template is not None and read + written > limit:
            raise ConfigError(
                f"training.max_length, {read}, and generation.{name}, {written}, are {read + written} tokens together, but the "
                f"model takes at most {limit}; lower one."
            )
