"""Loading a model's files through one of transformers' Auto classes, strictly; torch is imported inside functions only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import ModelError
from tasks.text import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_FRESH = "_fresh_weights"
# More than any model takes: what limits nothing. transformers says of a tokenizer that knows no limit that it has a larger one.
_NO_LIMIT = 1_000_000
# Model types that number positions from the one after their pad token's, as `create_position_ids_from_input_ids` of transformers
# does: as many of their position embeddings are never a token's.
_FROM_PAD = {
    *"camembert data2vec-text esm ibert lilt longformer luke mpnet".split(),
    *"roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod".split(),
}


def load_config(folder: Path, *, kind: str, remote_code: bool) -> "PretrainedConfig":
    """Load a model's configuration.

    Raises:
        ModelError: it cannot be loaded; says for which kind it was wanted.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    except Exception as error:  # a damaged or foreign file raises all sorts
        raise _unloadable(folder, kind, error) from error
    return config


def load_pretrained(
    auto_class: str, folder: Path, config: Any, *, kind: str, trained: bool, allow_pickle: bool, remote_code: bool
) -> "PreTrainedModel":
    """Load a model in fp32; what its files lack is freshly initialised, see `fresh_weights`.

    Args:
        auto_class: Name of the class, e.g. `AutoModelForSequenceClassification`.
        folder: The model's files.
        config: Its configuration, as the model shall be.
        kind: Name of the kind that wants it, for messages.
        trained: Whether it must lack none.
        allow_pickle: Whether pickled weights may be loaded.
        remote_code: Whether code that comes with it may be run.

    Raises:
        ModelError: the files do not make such a model, or lack weights that were trained.
    """
    import transformers

    try:
        loaded: tuple[PreTrainedModel, Any] = getattr(transformers, auto_class).from_pretrained(
            folder,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=not allow_pickle or any(folder.glob("*.safetensors")),
            trust_remote_code=remote_code,
            dtype="float32",
        )
    except Exception as error:  # damaged files raise all sorts: SafetensorError and UnpicklingError are of no common class
        raise _unloadable(folder, kind, error) from error
    model, info = loaded
    fresh = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    if trained and fresh:
        raise ModelError(f"Model {str(folder)!r} lacks trained weights: {one_line(sorted(fresh)[:5])}.")
    vars(model)[_FRESH] = frozenset(fresh)
    return model


def fresh_weights(model: "PreTrainedModel") -> frozenset[str]:
    """Return the names of the weights that the files of a model lacked: whatever else is frozen in training, they are not."""
    found: frozenset[str] = vars(model).get(_FRESH, frozenset())
    return found


def read_limit(config: "PretrainedConfig") -> int:
    """Return how many tokens a model with this configuration can read: for how many it has a position."""
    return _positions(config, "encoder")


def write_limit(config: "PretrainedConfig") -> int:
    """Return how many tokens the decoder of an encoder-decoder with this configuration can write."""
    return _positions(config, "decoder")


def _positions(whole: "PretrainedConfig", part: str) -> int:
    own = getattr(whole, part, None)
    config: Any = own if hasattr(own, "model_type") else whole
    # LED has one number for each part.
    found = getattr(config, f"max_{part}_position_embeddings", None) or getattr(config, "max_position_embeddings", None) or 0
    positions = int(found) - ((config.pad_token_id or 0) + 1) * (config.model_type in _FROM_PAD)
    return positions if positions > 0 else _NO_LIMIT


def _unloadable(folder: Path, kind: str, error: Exception) -> ModelError:
    return ModelError(f"Model {str(folder)!r} cannot be loaded for {kind}: {one_line(error)}")
