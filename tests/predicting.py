"""What the tests of predictions share: a trained model in a store, as the champion of a name and as the model of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blocks.artifact_store import ArtifactStore
from tasks.champions import Champion, Registry, write_registry
from tasks.compute.models import bind, load_model, load_tokenizer
from tasks.kinds import load_kind
from tasks.records import Promotion, Report
from tasks.trained import weights_digest


def save_model(
    folder: Path, start: Path, kind_name: str, settings: Mapping[str, Any], labels: Sequence[str], *, seed: int = 0
) -> Path:
    """Save a model with the head of its kind and weights that tell rows apart, as training leaves it."""
    import torch

    kind = bind(kind_name, settings, labels)
    tokenizer = load_tokenizer(start, remote_code=False)
    torch.manual_seed(seed)
    model, _ = load_model(kind, start, tokenizer, trained=False, allow_pickle=False, remote_code=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def publish_model(
    store: ArtifactStore,
    scratch: Path,
    start: Path,
    kind_name: str,
    settings: Mapping[str, Any],
    *,
    labels: Sequence[str] = (),
    key: str = "steps/fine-tune/0001",
    seed: int = 0,
) -> str:
    """Publish a model as its training would have left it; return the artifact's key."""
    folder = scratch / key.replace("/", "-")
    save_model(folder / "model", start, kind_name, settings, labels, seed=seed)
    config = load_kind(kind_name).config_class.model_validate(settings).model_dump(mode="json")
    content = {"kind": kind_name, "config": config, "labels": list(labels)}
    (folder / "experiment.json").write_text(json.dumps(content), encoding="utf-8")
    np.save(folder / "seen.npy", np.zeros(0, np.uint64))
    store.publish(folder, key, {})
    return key


def crown(
    store: ArtifactStore, name: str, key: str, *, kind: str = "text-classification", calibration: dict[str, float] | None = None
) -> Champion:
    """Make an artifact the champion of a name."""
    manifest = store.inspect(key)
    assert manifest is not None
    champion = Champion(
        key=key,
        run="crowned",
        run_id="1",
        report="runs/crowned-1",
        since="2026-01-01T00:00:00+00:00",
        scores="steps/evaluate-fine-tuned/0001",
        calibration=calibration or {},
        digest=weights_digest(manifest),
    )
    pointer = store.read_pointer(name)
    registry = Registry(kind=kind, primary_metric="accuracy", champions=[champion])
    write_registry(store, name, registry, pointer.version if pointer else None)
    return champion


def publish_run(store: ArtifactStore, scratch: Path, name: str, key: str, *, run: str = "a-run", number: int = 1) -> str:
    """Publish what a run leaves of itself; return its key."""
    scores, own = f"steps/evaluate-fine-tuned/{number:04d}", f"runs/{run}-{number:08d}"
    report = Report(
        **{"key": own, "kind": "text-classification", "name": name, "flow_run": run, "report": "", "model": ""},
        **{"before": {}, "after": {}, "difference": {}, "intervals": {}, "verdict": "improved", "outcome": "o"},
        **{"primary_metric": "accuracy", "rows": 1, "steps": {"fine-tune": key, "evaluate-fine-tuned": scores}},
        promotion=Promotion(outcome="held", reasons=[]),
    )
    for place, record in ((scores, {"calibration": {}}), (own, report.model_dump(mode="json"))):
        folder = scratch / place.replace("/", "-")
        folder.mkdir()
        (folder / "file").write_text("x")
        store.publish(folder, place, record)
    return own
