"""TPC-H by Spark for scripts/bench/tables.

    tables_spark.py write JARS URL KEY SECRET CATALOG PARQUET     the tables lake.tpch.*, of folders of Parquet files
    tables_spark.py serve JARS URL KEY SECRET CATALOG             a line `QUERY ROOT` on its standard input each: the query
                                                                  on the tables in the folder ROOT, or, if that is `s3`, of
                                                                  the catalog; prints seconds and a digest of the answer

CATALOG is a file of SQLite; the bucket is `lake`. `serve` prints `ready` when Spark runs.
"""
import hashlib
import os
import sys
import time

from pyspark.sql import SparkSession

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tables_queries import QUERIES, TABLES

what, jars, url, key, secret, path, *arguments = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]").appName("bench")
    .config("spark.driver.extraClassPath", jars).config("spark.driver.memory", "4g")
    .config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "2")
    .config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog")
    .config("spark.sql.catalog.lake.catalog-impl", "org.apache.iceberg.jdbc.JdbcCatalog")
    .config("spark.sql.catalog.lake.uri", f"jdbc:sqlite:{path}")
    .config("spark.sql.catalog.lake.jdbc.schema-version", "V1")
    .config("spark.sql.catalog.lake.warehouse", "s3://lake/wh")
    .config("spark.sql.catalog.lake.io-impl", "org.apache.iceberg.aws.s3.S3FileIO")
    .config("spark.sql.catalog.lake.s3.endpoint", url)
    .config("spark.sql.catalog.lake.s3.path-style-access", "true")
    .config("spark.sql.catalog.lake.s3.access-key-id", key)
    .config("spark.sql.catalog.lake.s3.secret-access-key", secret)
    .config("spark.sql.catalog.lake.client.region", "us-east-1")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")


def write(folder):
    spark.sql("CREATE NAMESPACE IF NOT EXISTS lake.tpch")
    for name in TABLES:
        # A file of its own for each that is read, in its order.
        files = sorted(os.path.join(folder, name, file) for file in os.listdir(os.path.join(folder, name)))
        spark.conf.set("spark.sql.files.maxPartitionBytes", "1g")
        spark.conf.set("spark.sql.files.openCostInBytes", "1g")
        spark.read.parquet(*files).writeTo(f"lake.tpch.{name}").create()


def query(name, root):
    start = time.monotonic()
    for table in TABLES if name == "Q3" else TABLES[:1]:
        at = f"{root}/{table}"
        frame = spark.table(f"lake.tpch.{table}") if root == "s3" else spark.read.format("iceberg").load(at)
        frame.createOrReplaceTempView(table)
    rows = spark.sql(QUERIES[name]).collect()
    took = time.monotonic() - start
    text = "\n".join("|".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row) for row in rows)
    return took, hashlib.sha256(text.encode()).hexdigest()[:12], len(rows)


def serve():
    print("ready", flush=True)
    for line in sys.stdin:
        took, digest, rows = query(*line.split())
        print(f"{took:.3f} {digest} {rows}", flush=True)


globals()[what](*arguments)
spark.stop()
