"""The quickstart dataset: documentation of AWS API operations, labelled with the family of their service.

The text is what botocore (Apache-2.0) ships for each operation of an API: a few words to a few paragraphs of technical English.
The label is the family of the API's service: compute, storage, database, machine learning, security, networking, analytics, iot.
"""

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from tasks.data.files import BATCH_ROWS, Batch, Part
from tasks.data.rows import fold, hash64

FAMILIES = {
    "compute": "apprunner autoscaling batch compute-optimizer ec2 ecs eks elasticbeanstalk emr-containers imagebuilder lambda "
    "lightsail outposts pcs serverlessrepo",
    "storage": "backup backup-gateway datasync ebs efs fsx glacier importexport rbin s3 s3control s3outposts s3tables "
    "snow-device-management snowball storagegateway transfer workdocs",
    "database": "dax dms docdb docdb-elastic dsql dynamodb elasticache keyspaces memorydb neptune neptune-graph neptunedata pi "
    "rds rds-data redshift redshift-serverless sdb timestream-influxdb timestream-query timestream-write",
    "machine learning": "bedrock bedrock-agent bedrock-agent-runtime bedrock-runtime comprehend comprehendmedical forecast "
    "frauddetector kendra lex-models lexv2-models lookoutequipment machinelearning personalize polly rekognition sagemaker "
    "sagemaker-runtime textract transcribe translate voice-id",
    "security": "accessanalyzer acm acm-pca auditmanager cloudhsmv2 cognito-identity cognito-idp detective fms guardduty iam "
    "identitystore inspector2 kms macie2 network-firewall payment-cryptography rolesanywhere secretsmanager securityhub "
    "securitylake shield signer sso sso-admin sts verifiedpermissions waf wafv2",
    "networking": "apigateway apigatewayv2 appmesh cloudfront directconnect elb elbv2 globalaccelerator networkmanager "
    "networkmonitor route53 route53-recovery-control-config route53domains route53profiles route53resolver servicediscovery "
    "vpc-lattice",
    "analytics": "athena cleanrooms cloudsearch databrew dataexchange datapipeline datazone emr emr-serverless entityresolution "
    "es firehose glue kafka kafkaconnect kinesis kinesisanalyticsv2 lakeformation opensearch opensearchserverless osis "
    "quicksight",
    "iot": "greengrass greengrassv2 iot iot-data iot-jobs-data iot-managed-integrations iotdeviceadvisor iotfleetwise "
    "iotsecuretunneling iotsitewise iotthingsgraph iottwinmaker iotwireless",
}
ROWS_PER_FAMILY = 400
LEAST_WORDS = 6


def quickstart_part() -> Part:
    """Return the dataset as one part: `text`, `label` and `operation`, at most 400 rows a family, chosen by their hash."""
    rows = _rows()

    def read(columns: list[str]) -> Iterator[Batch]:
        for start in range(0, len(rows), BATCH_ROWS):
            yield {name: [row[name] for row in rows[start : start + BATCH_ROWS]] for name in columns}

    return Part("quickstart", ("text", "label", "operation"), read)


def _rows() -> list[dict[str, str]]:
    families: dict[str, dict[int, dict[str, str]]] = {family: {} for family in FAMILIES}
    seen: set[int] = set()
    for family, services in FAMILIES.items():
        for operation, text in (pair for service in services.split() for pair in _operations(service)):
            digest = hash64(fold(text))
            if len(text.split()) >= LEAST_WORDS and digest not in seen:
                seen.add(digest)
                families[family][digest] = {"text": text, "label": family, "operation": operation}
    chosen = [(digest, row) for rows in families.values() for digest, row in sorted(rows.items())[:ROWS_PER_FAMILY]]
    return [row for _, row in sorted(chosen, key=lambda pair: pair[0])]


def _operations(service: str) -> Iterator[tuple[str, str]]:
    """Yield (operation, text) of the newest API version of a service; nothing if this botocore lacks it."""
    import botocore

    root = Path(botocore.__file__).parent / "data" / service
    versions = sorted(path for path in root.glob("*") if (path / "service-2.json.gz").is_file())
    if versions:
        model = json.loads(gzip.decompress((versions[-1] / "service-2.json.gz").read_bytes()))
        for name, operation in sorted(model["operations"].items()):
            yield f"{service}.{name}", _plain(operation.get("documentation", ""))


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("p", "li", "br", "ul", "dd", "dt"):
            self.pieces.append(" ")


def _plain(html: str) -> str:
    """Return the text of an HTML fragment in one line."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return re.sub(r"\s+", " ", "".join(parser.pieces)).strip()
