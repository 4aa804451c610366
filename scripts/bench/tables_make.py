"""Tables for scripts/bench/tables: written by PyIceberg into a bucket and a catalog in a file of SQLite.

    tables_make.py bucket URL KEY SECRET CATALOG              the bucket alone
    tables_make.py file URL KEY SECRET CATALOG MIB            bench.file: one data file of so many MiB
    tables_make.py many URL KEY SECRET CATALOG FILES          bench.many: so many files in 100 partitions, a manifest for
                                                              each; bench.one: the same files, all in one manifest
    tables_make.py commits URL KEY SECRET CATALOG             for each line `TABLE HOW` of its input a commit to bench.TABLE
                                                              that changes ten files: `append` adds them, `partition`
                                                              replaces ten of one partition, `partitions` one of each of ten;
                                                              prints `done`
    tables_make.py idle URL KEY SECRET CATALOG TABLES         bench.t0 …: so many empty tables

CATALOG is the path of the file; the bucket is `lake`.
"""
import concurrent.futures
import io
import json
import random
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, NestedField

what, url, key, secret, path, *arguments = sys.argv[1:]
BUCKET = "lake"
PARTITIONS = 100
ROWS = 200
CHANGED = 10
AT_ONCE = 16

store = fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=url.partition("://")[2], scheme="http",
                        region="us-east-1", allow_bucket_creation=True)
store.create_dir(BUCKET)
catalog = SqlCatalog("lake", **{
    "uri": f"sqlite:///{path}", "warehouse": f"s3://{BUCKET}/wh", "s3.endpoint": url, "s3.access-key-id": key,
    "s3.secret-access-key": secret, "s3.region": "us-east-1",
})
catalog.create_namespace_if_not_exists("bench")

SCHEMA = Schema(NestedField(1, "id", LongType(), required=False), NestedField(2, "p", LongType(), required=False))
SPEC = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "p"))


def bucket():
    pass


def file(mib):
    """Numbers that no encoding makes smaller, eight bytes each."""
    properties = {"write.parquet.compression-codec": "uncompressed", "write.target-file-size-bytes": str(1 << 40)}
    table = catalog.create_table("bench.file", Schema(NestedField(1, "n", LongType(), required=False)), properties=properties)
    dice = random.Random(6)
    numbers = pa.py_buffer(b"".join(dice.randbytes(1 << 20) for _ in range(mib)))
    table.append(pa.table({"n": pa.Array.from_buffers(pa.int64(), mib << 17, [None, numbers])}))
    files = table.inspect.files().to_pylist()
    print(json.dumps({"file": files[0]["file_path"], "files": len(files)}))


def put(table, partition, count):
    """New objects of one partition, and what a manifest says of each."""
    rows = pa.table({"id": pa.array(range(ROWS), pa.int64()), "p": pa.array([partition] * ROWS, pa.int64())})
    buffer = io.BytesIO()
    pq.write_table(rows, buffer)
    bytes_ = buffer.getvalue()
    folder = f"{table.location().removeprefix('s3://')}/data/p={partition}"
    names = [f"{folder}/{uuid.uuid4()}.parquet" for _ in range(count)]

    def one(name):
        with store.open_output_stream(name) as out:
            out.write(bytes_)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, names))
    return [described(f"s3://{name}", partition, len(bytes_)) for name in names]


def described(location, partition, size):
    described = DataFile.from_args(
        content=DataFileContent.DATA, file_path=location, file_format=FileFormat.PARQUET, partition=Record(partition),
        record_count=ROWS, file_size_in_bytes=size, column_sizes={}, value_counts={1: ROWS, 2: ROWS},
        null_value_counts={1: 0, 2: 0}, nan_value_counts={}, lower_bounds={}, upper_bounds={}, split_offsets=[4],
        sort_order_id=None)
    described.spec_id = 0
    return described


def append(table, files):
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as update:
        for one in files:
            update.append_data_file(one)


def many(files):
    table = catalog.create_table("bench.many", SCHEMA, partition_spec=SPEC)
    parts = [put(table, partition, files // PARTITIONS) for partition in range(PARTITIONS)]
    for part in parts:
        append(table, part)
    append(catalog.create_table("bench.one", SCHEMA, partition_spec=SPEC), [one for part in parts for one in part])


def commits():
    for line in sys.stdin:
        commit(*line.split())
        print("done", flush=True)


def commit(name, how):
    table = catalog.load_table(f"bench.{name}")
    dice = random.Random(table.metadata.last_sequence_number)
    chosen = dice.sample(range(PARTITIONS), 1 if how == "partition" else CHANGED)
    new = [one for partition in chosen for one in put(table, partition, CHANGED // len(chosen))]
    if how == "append":
        return append(table, new)
    old = []
    for partition in chosen:
        tasks = sorted(table.scan(f"p == {partition}").plan_files(), key=lambda task: task.file.file_path)
        old += [task.file for task in dice.sample(tasks, CHANGED // len(chosen))]
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        for one in old:
            update.delete_data_file(one)
        for one in new:
            update.append_data_file(one)


def idle(tables):
    for number in range(tables):
        catalog.create_table(f"bench.t{number}", SCHEMA)


globals()[what](*map(int, arguments))
