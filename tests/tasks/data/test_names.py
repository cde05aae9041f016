"""What names say: data in S3 or not, and addresses that are refused. How files are sorted is tested where they are listed."""

import pytest

from tasks.data.names import is_remote
from tasks.data.source import is_hub_id
from tasks.errors import ConfigError
from tasks.kinds.text_classification import TextClassificationData


@pytest.mark.parametrize("source", ["s3://bucket", "s3://bucket/a/b.csv", "s3://bucket/*.csv", "s3://bucket/a@b:c/d.csv"])
def test_an_address_in_s3_is_remote_and_no_hub_id(source: str) -> None:
    data = TextClassificationData(source=source, train="a.csv", test="s3://other/b.csv")
    assert is_remote(data)
    assert not is_hub_id(data)


@pytest.mark.parametrize("source", ["quickstart", "ag_news", "data/train.csv", "s3", "s3:/bucket/x"])
def test_all_else_is_not(source: str) -> None:
    assert not is_remote(TextClassificationData(source=source, test="test"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "https://host/*.csv"},
            "data.source is an address with 'https', which is not supported; give s3://bucket/key",
        ),
        ({"source": "S3://bucket/a.csv"}, "data.source is an address with 'S3', which is not supported"),
        ({"source": "s3://bucket", "test": "gs://bucket"}, "data.test is an address with 'gs', which is not supported"),
        ({"source": "ag_news", "test": "s3://bucket/a.csv"}, "data.test is in S3, but data.source is not; give both"),
        ({"source": "s3://AKIA:hidden@bucket/a.csv"}, "data.source seems to hold credentials; leave them out"),
        ({"source": "https://user:hidden@host/a.csv"}, "data.source is an address with 'https', which is not supported"),
        ({"source": "s3://bucket", "train": "s3://hidden@b/a.csv"}, "data.train seems to hold credentials; leave them out"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_no_secret_repeated(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        is_remote(TextClassificationData(**settings))
    assert str(caught.value).startswith(message)
    assert "hidden" not in str(caught.value)
