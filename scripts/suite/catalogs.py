"""Who writes what scripts/suite/catalogs reads: tables in Glue and in a Hive metastore, by PyIceberg.

    catalogs.py KIND create          a database with a table `t` of Iceberg's, and one that is none
    catalogs.py KIND commit          one snapshot more; prints where the metadata is
    catalogs.py KIND drop            `t` is no more
    catalogs.py KIND read PATH       the table at PATH holds what `t` holds, for PyIceberg and for DuckDB
    catalogs.py glue user FILE       credentials of somebody who may do what docs/TABLES.md names, as a profile in FILE;
                                     from then on Glue asks everybody for their rights
    catalogs.py glue allow|deny      that user, who has that right or has it not

Where all of it is stands in the environment: URI (of the catalog), S3_URL, S3_KEY and S3_SECRET (of its bucket), LOG (a
file with what was committed).
"""
import configparser
import json
import os
import sys
import urllib.request

REGION = "eu-west-1"
BUCKET = "lake"
POLICY = {"UserName": "reader", "PolicyName": "tables"}
URI, LOG = os.environ["URI"], os.environ["LOG"]
STORE = {"url": os.environ["S3_URL"], "key": os.environ["S3_KEY"], "secret": os.environ["S3_SECRET"]}
# What moto knows as the root of its account, and asks no rights of.
ROOT = {"region_name": REGION, "aws_access_key_id": "root", "aws_secret_access_key": "root"}


def catalog(kind):
    from pyiceberg.catalog import load_catalog
    own = {"uri": URI}
    if kind == "glue":
        key, secret = writer()
        own = {"glue.endpoint": URI, "glue.region": REGION, "glue.access-key-id": key, "glue.secret-access-key": secret}
    return load_catalog(kind, **own, **{
        "type": kind, "warehouse": f"s3://{BUCKET}/{kind}", "s3.endpoint": STORE["url"], "s3.region": "us-east-1",
        "s3.access-key-id": STORE["key"], "s3.secret-access-key": STORE["secret"],
    })


def writer():
    """Who may write: the root, as long as nobody is asked for rights."""
    try:
        return tuple(json.load(open(f"{LOG}.writer")))
    except FileNotFoundError:
        return "root", "root"


def rows(count):
    import pyarrow as pa
    return pa.table({"id": pa.array(range(count), pa.int64()), "text": [f"row {n}" for n in range(count)]})


def create(kind):
    from pyarrow import fs
    scheme, _, host = STORE["url"].partition("://")
    fs.S3FileSystem(access_key=STORE["key"], secret_key=STORE["secret"], endpoint_override=host, scheme=scheme,
                    region="us-east-1", allow_bucket_creation=True).create_dir(BUCKET)
    own = catalog(kind)
    own.create_namespace("db", {"location": f"s3://{BUCKET}/{kind}/db"})
    table = own.create_table("db.t", schema=rows(1).schema)
    table.append(rows(100))
    own.create_table("db.u", schema=rows(1).schema).append(rows(7))
    if kind == "glue":
        plain = {"Name": "plain", "Parameters": {"EXTERNAL": "TRUE"}, "TableType": "EXTERNAL_TABLE"}
        own.glue.create_table(DatabaseName="db", TableInput=plain)
    else:
        from hive_metastore.ttypes import FieldSchema, SerDeInfo, StorageDescriptor, Table
        descriptor = StorageDescriptor(cols=[FieldSchema("a", "int")], location=f"s3://{BUCKET}/hive/db/plain",
                                       serdeInfo=SerDeInfo(serializationLib="none"))
        with own._client as client:
            client.create_table(Table(dbName="db", tableName="plain", sd=descriptor, tableType="EXTERNAL_TABLE",
                                      parameters={"EXTERNAL": "TRUE"}))
    note(100)


def note(count):
    with open(LOG, "w") as log:
        log.write(str(count))


def noted():
    return int(open(LOG).read())


def commit(kind):
    table = catalog(kind).load_table("db.t")
    table.append(rows(noted() + 1).slice(noted()))
    note(noted() + 1)
    print(table.metadata_location)


def drop(kind):
    catalog(kind).drop_table("db.t")


def read(kind, path):
    import duckdb
    from pyiceberg.table import StaticTable
    expected = rows(noted()).to_pylist()
    found = StaticTable.from_metadata(path).scan().to_arrow().sort_by("id").to_pylist()
    assert found == expected, f"PyIceberg reads {len(found)} rows, {len(expected)} were written"
    connection = duckdb.connect()
    connection.execute("LOAD iceberg")
    found = connection.execute(f"SELECT id, text FROM iceberg_scan('{path}') ORDER BY id").to_arrow_table().to_pylist()
    assert found == expected, f"DuckDB reads {len(found)} rows, {len(expected)} were written"


def iam(**keys):
    import boto3
    return boto3.client("iam", endpoint_url=URI, **{**ROOT, **keys})


def policy(actions):
    return json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": actions, "Resource": "*"}]})


def actions():
    """The actions that docs/TABLES.md says are needed, and no other."""
    import re
    text = open(os.path.join(os.environ["ICECACHE_ROOT"], "docs", "TABLES.md")).read()
    found = sorted(set(re.findall(r"`(glue:[A-Z]\w+)`", text)))
    assert found, "docs/TABLES.md names no actions of Glue"
    return found


def user(_, file):
    root = iam()
    root.create_user(UserName="writer")
    root.put_user_policy(UserName="writer", PolicyName="all", PolicyDocument=policy("*"))
    keys = root.create_access_key(UserName="writer")["AccessKey"]
    with open(f"{LOG}.writer", "w") as out:
        json.dump([keys["AccessKeyId"], keys["SecretAccessKey"]], out)
    root.create_user(UserName="reader")
    keys = root.create_access_key(UserName="reader")["AccessKey"]
    root.put_user_policy(**POLICY, PolicyDocument=policy(actions()))
    profiles = configparser.ConfigParser()
    profiles["catalog"] = {"aws_access_key_id": keys["AccessKeyId"], "aws_secret_access_key": keys["SecretAccessKey"]}
    with open(file, "w") as out:
        profiles.write(out)
    ask = urllib.request.Request(f"{URI}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(ask, timeout=30).read()


def allow(_):
    iam_of_writer().put_user_policy(**POLICY, PolicyDocument=policy(actions()))


def deny(_):
    iam_of_writer().put_user_policy(**POLICY, PolicyDocument=policy("s3:GetObject"))


def iam_of_writer():
    key, secret = writer()
    return iam(aws_access_key_id=key, aws_secret_access_key=secret)


kind, verb, *rest = sys.argv[1:]
globals()[verb](kind, *rest)
