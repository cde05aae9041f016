"""The quickstart dataset: documentation of AWS API operations, labelled with the family of their service.

The text is what botocore (Apache-2.0) ships for each operation of an API: a few words to a few paragraphs of technical English.
The label is the family of the API's service: compute, storage, database, machine learning, security, networking, analytics, iot.
"""

from tasks.data.files import Part
from tasks.data.quickstart.botocore_docs import operations, part_of
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


def families_part() -> Part:
    """Return the dataset as one part: `text`, `label` and `operation`, at most 400 rows a family, chosen by their hash."""
    return part_of(_rows())


def _rows() -> list[dict[str, str]]:
    families: dict[str, dict[int, dict[str, str]]] = {family: {} for family in FAMILIES}
    seen: set[int] = set()
    for family, services in FAMILIES.items():
        for operation, text in (pair for service in services.split() for pair in operations(service)):
            digest = hash64(fold(text))
            if len(text.split()) >= LEAST_WORDS and digest not in seen:
                seen.add(digest)
                families[family][digest] = {"text": text, "label": family, "operation": operation}
    chosen = [(digest, row) for rows in families.values() for digest, row in sorted(rows.items())[:ROWS_PER_FAMILY]]
    return [row for _, row in sorted(chosen, key=lambda pair: pair[0])]
