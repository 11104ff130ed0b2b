"""Create the S3 buckets named as arguments, but those that are there. Address and credentials: AWS's own variables."""

import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

try:
    store = boto3.client("s3")
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    for name in sys.argv[1:]:
        if name not in there:
            store.create_bucket(Bucket=name)
            print(f"bucket {name}: created")
except (BotoCoreError, ClientError) as error:
    sys.exit(f"S3 store: {error}; see AWS_ENDPOINT_URL and AWS_SHARED_CREDENTIALS_FILE")
