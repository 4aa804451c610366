"""Reads published tables with one engine, and compares with what Spark read from the originals.

    tables.py ENGINE MOUNT PUBLISHED EXPECTED [part]

PUBLISHED has a line of JSON for each table (iceberg/examples/publish.rs). Prints a line for each table and ends
non-zero if anything differs. With `part` every table is read as it is now, and of those that have
branches or tags the first of each other kind of view.
"""
import json
import os
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures"))
from rows import arrow_summary, summary

engine, mount, published, expected = sys.argv[1:5]
is_part = sys.argv[5:] == ["part"]
expected = json.load(open(expected))

# What an engine cannot read of any table like this, wherever it lies; docs/TABLES.md says so too. `refused`: the
# table cannot be shown.
DATA_IN_ORC = dict.fromkeys(("orc", "orc_deletes", "orc_pos_orc"), "data in ORC")
GAPS = {
    "pyiceberg": {"eq": "equality deletes", "avro": "data in Avro"},
    "polars": {"eq": "equality deletes", "avro": "data in Avro"},
    "duckdb": {"avro": "deletes in Avro", **DATA_IN_ORC, "manifests_zstd": "ends the process"},
    "datafusion": {"avro": "data in Avro", **DATA_IN_ORC, "py_plain": "a column renamed after the last snapshot"},
    "spark": {},
}
REFUSED = set()


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


def spark_session():
    """With a catalog `m`, which has the folder of all tables as its warehouse."""
    global session
    if session is None:
        from pyspark.sql import SparkSession
        session = (
            SparkSession.builder.master("local[2]").config("spark.driver.extraClassPath", os.environ["ICEBERG_JAR"])
            .config("spark.ui.enabled", "false").config("spark.sql.session.timeZone", "UTC")
            .config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.catalog.m", "org.apache.iceberg.spark.SparkCatalog")
            .config("spark.sql.catalog.m.type", "hadoop").config("spark.sql.catalog.m.cache-enabled", "false")
            .config("spark.sql.catalog.m.warehouse", f"file://{os.path.abspath(mount)}/iceberg").getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
    return session


def spark(folder):
    frame = spark_session().read.format("iceberg").load(folder)
    return summary(frame.columns, frame.collect())


def spark_by_catalog(query):
    frame = spark_session().sql(query)
    return summary(frame.columns, frame.collect())


def views(line, wanted):
    """Every view of a table: its kind, its name, how it is read, and what must be in it."""
    read, path = globals()[engine], os.path.join(mount, line["path"])
    yield "path", "current", lambda: read(path), wanted["current"]
    for snapshot, below in line["snapshots"].items():
        yield "snapshot", snapshot, lambda: read(f"{path}/{below}"), wanted["snapshots"][snapshot]
    for name, below in line["refs"].items():
        yield "reference", name, lambda: read(f"{path}/{below}"), wanted["refs"][name]
    for time, snapshot in line.get("times", {}).items():
        yield "time", time, lambda: read(f"{path}/snapshots/{time}"), wanted["snapshots"][snapshot]
    if engine != "spark":
        return
    table = ".".join(f"`{name}`" for name in ["m", *line["path"].split("/")[1:]])
    query = f"SELECT * FROM {table}"
    yield "catalog", "current", lambda: spark_by_catalog(query), wanted["current"]
    for snapshot in line["snapshots"]:
        yield "catalog, snapshot", snapshot, lambda: spark_by_catalog(f"{query} VERSION AS OF {snapshot}"), wanted["snapshots"][snapshot]
    for name in line["refs"]:
        yield "catalog, reference", name, lambda: spark_by_catalog(f"{query} VERSION AS OF '{name}'"), wanted["refs"][name]


def check(line, wanted):
    seen = []
    for kind, name, read, rows in views(line, wanted):
        is_first = len(line["refs"]) > 1 and kind not in seen
        if is_part and kind not in ("path", "catalog") and not is_first:
            continue
        found = read()
        if found != rows:
            raise AssertionError(f"{kind} {name}: expected {rows}, found {found}")
        seen.append(kind)
    return len(seen)


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
