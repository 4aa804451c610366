"""TPC-H by DuckDB for scripts/bench/tables: one process, one query, several times.

    tables_duckdb.py FOLDER QUERY TIMES [ENDPOINT KEY SECRET]

The data files of a table are FOLDER/<table>/data/*.parquet; with an endpoint FOLDER is in a bucket there. Prints the
seconds of each time and a digest of the answer.
"""
import hashlib
import os
import sys
import time

import duckdb
from duckdb_extensions import import_extension

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tables_queries import QUERIES, TABLES

folder, query, times, *store = sys.argv[1:]
connection = duckdb.connect()
connection.execute("SET threads = 2")
if store:
    endpoint, key, secret = store
    import_extension("httpfs")
    connection.load_extension("httpfs")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{key}', SECRET '{secret}', REGION 'us-east-1', URL_STYLE 'path', USE_SSL false,"
        f" ENDPOINT '{endpoint.partition('://')[2]}')")
took = []
for _ in range(int(times)):
    start = time.monotonic()
    for table in TABLES if query == "Q3" else TABLES[:1]:
        # What a glob finds is remembered by nobody: each time the files are looked for.
        connection.execute(f"CREATE OR REPLACE VIEW {table} AS FROM read_parquet('{folder}/{table}/data/*.parquet')")
    rows = connection.execute(QUERIES[query]).fetchall()
    took.append(time.monotonic() - start)
text = "\n".join("|".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row) for row in rows)
print(*(f"{seconds:.3f}" for seconds in took), hashlib.sha256(text.encode()).hexdigest()[:12])
