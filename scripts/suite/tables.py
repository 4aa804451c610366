"""Reads published tables with one engine, and compares with what Spark read from the originals.

    tables.py ENGINE MOUNT PUBLISHED EXPECTED

PUBLISHED has a line of JSON for each table (iceberg/examples/publish.rs). Prints a line for each table and ends
non-zero if anything differs.
"""
import json
import os
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures"))
from rows import arrow_summary, summary

engine, mount, published, expected = sys.argv[1:5]
expected = json.load(open(expected))

# What an engine cannot read of any table like this, wherever it lies; docs/TABLES.md says so too. `refused`: the
# table cannot be shown.
GAPS = {
    "pyiceberg": {"eq": "equality deletes", "avro": "data in Avro"},
    "polars": {"eq": "equality deletes", "avro": "data in Avro"},
    "duckdb": {"avro": "deletes in Avro", "orc": "data in ORC", "manifests_zstd": "ends the process"},
    "datafusion": {"avro": "data in Avro", "orc": "data in ORC", "py_plain": "a column renamed after the last snapshot"},
    "spark": {},
}
REFUSED = {"orc_deletes"}


def pyiceberg(folder):
    from pyiceberg.table import StaticTable
    return arrow_summary(StaticTable.from_metadata(folder).scan().to_arrow())


def polars(folder):
    import polars
    return arrow_summary(polars.scan_iceberg(folder).collect().to_arrow())


def duckdb(folder):
    return arrow_summary(duckdb_connection().sql(f"SELECT * FROM iceberg_scan('{folder}')").to_arrow_table())


connection = None


def duckdb_connection():
    global connection
    if connection is None:
        import duckdb
        from duckdb_extensions import import_extension
        for extension in ("avro", "iceberg"):
            import_extension(extension)
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.load_extension("iceberg")
    return connection


def datafusion(folder):
    from datafusion import SessionContext
    from pyiceberg.table import StaticTable
    hint = open(f"{folder}/metadata/version-hint.text").read()
    context = SessionContext()
    context.register_table("t", StaticTable.from_metadata(f"file://{folder}/metadata/v{hint}.metadata.json"))
    return arrow_summary(context.sql("SELECT * FROM t").to_arrow_table())


session = None


def spark(folder):
    global session
    if session is None:
        from pyspark.sql import SparkSession
        session = (
            SparkSession.builder.master("local[2]").config("spark.driver.extraClassPath", os.environ["ICEBERG_JAR"])
            .config("spark.ui.enabled", "false").config("spark.sql.session.timeZone", "UTC")
            .config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
    frame = session.read.format("iceberg").load(folder)
    return summary(frame.columns, frame.collect())


def views(line, wanted):
    """Every folder of a table and what must be in it."""
    yield "current", line["path"], wanted["current"]
    for snapshot, path in line["snapshots"].items():
        yield f"snapshot {snapshot}", f"{line['path']}/{path}", wanted["snapshots"][snapshot]
    for name, path in line["refs"].items():
        yield f"reference {name}", f"{line['path']}/{path}", wanted["refs"][name]


def check(line, wanted):
    count = 0
    for what, path, rows in views(line, wanted):
        found = globals()[engine](os.path.join(mount, path))
        if found != rows:
            raise AssertionError(f"{what}: expected {rows}, found {found}")
        count += 1
    return count


failed = 0
for text in open(published):
    line = json.loads(text)
    name = line["table"]
    if name in REFUSED:
        if "is not supported" not in line.get("error", ""):
            failed += 1
            print(f"FAILED  {engine} {name}: it should have been refused")
        continue
    gap = GAPS[engine].get(name)
    if gap == "ends the process":
        print(f"ok      {engine} {name}: not tried, it {gap}")
        continue
    try:
        if "error" in line:
            raise AssertionError(line["error"])
        count = check(line, expected[name])
    except Exception as error:  # whatever an engine throws
        if gap is not None:
            print(f"ok      {engine} {name}: not read, as known ({gap})")
            continue
        failed += 1
        print(f"FAILED  {engine} {name}: {error}")
        if not isinstance(error, AssertionError):
            traceback.print_exc(limit=-2)
        continue
    print(f"ok      {engine} {name}: {count} views" + (f"; known as a gap ({gap}), which is none any more" if gap else ""))
sys.exit(1 if failed else 0)
