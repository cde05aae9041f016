"""Publish a champion on the Hugging Face Hub, with the card that has its run's verdict."""

import shutil
import tempfile
from pathlib import Path

from blocks.artifact_store import ArtifactStore
from tasks.champions import Champion
from tasks.errors import ConfigError, HubUnavailable
from tasks.text import one_line


def push(store: ArtifactStore, name: str, model: Champion, repository: str, *, private: bool) -> str:
    """Upload a model's folder and return the address of the commit.

    Args:
        store: The store.
        name: The model's name.
        model: The champion.
        repository: `owner/name` on the Hub; made if it is not there.
        private: Whether to make it a private one.

    Raises:
        ConfigError: the repository's name is wrong, or the token may not write there.
        HubUnavailable: the Hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    folder = store.fetch(model.key) / "model"
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
            upload = Path(scratch) / "model"
            shutil.copytree(folder, upload, ignore=shutil.ignore_patterns("training_args.bin"))
            shutil.copyfile(store.fetch(model.report) / "model_card.md", upload / "README.md")
            api = HfApi(library_name="finetune-flows")
            api.create_repo(repository, private=private or None, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository, folder_path=upload, commit_message=f"Champion of {name}: the model of run {model.run}"
            )
        return str(done.commit_url)
    except HFValidationError as error:
        raise ConfigError(f"Repository {repository!r} is not one of the Hub's: {one_line(error, 200)}") from None
    except (OfflineModeIsEnabled, OSError) as error:
        response = getattr(error, "response", None)
        if isinstance(error, HfHubHTTPError) and response is not None and response.status_code in (401, 403, 404):
            raise ConfigError(
                f"The Hub does not let this account write to {repository!r} (status {response.status_code}); set HF_TOKEN to a "
                "token that may."
            ) from None
        raise HubUnavailable(f"The Hub did not take the model: {one_line(error, 200)}") from None
