"""Tests of the page on deploying: what it says is so."""

import json
import re
from pathlib import Path

import yaml

from tasks.config import ExperimentConfig

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")

# Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
ACTIONS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "upload": "s3:PutObject",
    "delete_objects": "s3:DeleteObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}


def test_the_bucket_policy_allows_what_the_store_calls_and_no_more() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "blocks").glob("s3_*.py"))
    called = set(re.findall(r'"((?:get|put|list|delete|head|abort|create|copy)_[a-z0-9_]+)"', code))
    called |= set(re.findall(r"(?:client|manager)\.([a-z_]+)\(", code)) - {"shutdown"}
    (policy,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    allowed = {action for statement in json.loads(policy)["Statement"] for action in statement["Action"]}
    assert {ACTIONS[name] for name in called} == allowed


def test_the_settings_that_it_names_are_there() -> None:
    for name in ("gpu_deployment", "gpu_wait_s", "gpu_absent", "notify", "store"):
        assert f"`{name}" in PAGE
        assert name in ExperimentConfig.model_fields
    assert ExperimentConfig().gpu_wait_s == 300


def test_the_deployments_that_it_names_are_those_of_prefect_yaml() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    named = set(re.findall(r"^- `([a-z-]+/[a-z-]+)`", PAGE, re.MULTILINE))
    assert named == {
        f"{deployment['entrypoint'].rpartition('.')[2].replace('_', '-')}/{deployment['name']}" for deployment in deployments
    }


def test_its_pictures_and_pages_are_there() -> None:
    for target in re.findall(r"\]\(([a-z/-]+\.(?:png|md))\)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target
