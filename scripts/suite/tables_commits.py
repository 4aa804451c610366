"""Scans of a mounted table while somebody commits to it: each must hold exactly what one committed snapshot holds, and one
that was shown between its start and its end.

    tables_commits.py create URL KEY SECRET WORK                  a table in a SQL catalog, WORK/catalog.db
    tables_commits.py scan URL KEY SECRET WORK MOUNT ENGINE N     N scans by pyiceberg or duckdb, under commits

The writer appends, overwrites, deletes, writes everything anew and expires snapshots, every 200 ms. Before each commit it
knows what the table will hold; of each snapshot it writes down a digest of that.
"""
import hashlib
import json
import multiprocessing
import os
import random
import sys
import time

PAUSE = 0.2
ROWS_MAX = 2000
KEPT = 20  # snapshots that an expiry leaves
PATIENCE = 300  # seconds until what must come is given up


def catalog(url, key, secret, work):
    from pyiceberg.catalog.sql import SqlCatalog
    return SqlCatalog("live", **{
        "uri": f"sqlite:///{work}/catalog.db", "warehouse": f"s3://live/{os.path.basename(work)}", "s3.endpoint": url,
        "s3.access-key-id": key, "s3.secret-access-key": secret, "s3.region": "us-east-1",
    })


def rows(model):
    import pyarrow as pa
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("kind", pa.string()), pa.field("value", pa.int64())])
    return pa.Table.from_pylist([{"id": i, "kind": k, "value": v} for i, (k, v) in model.items()], schema)


def digest(triples):
    return hashlib.sha256(json.dumps(sorted(triples)).encode()).hexdigest()


def of_model(model):
    return digest([i, k, v] for i, (k, v) in model.items())


def of_arrow(table):
    return digest([list(row) for row in zip(*(table.column(name).to_pylist() for name in ("id", "kind", "value")))])


def note(work, table, model):
    with open(f"{work}/commits", "a") as log:
        current = table.metadata.current_snapshot_id
        log.write(json.dumps({"snapshot": current, "digest": of_model(model), "rows": len(model)}) + "\n")


def create(url, key, secret, work):
    import pyarrow as pa
    from pyarrow import fs
    scheme, _, host = url.partition("://")
    fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=host, scheme=scheme, region="us-east-1",
                    allow_bucket_creation=True).create_dir("live")
    live = catalog(url, key, secret, work)
    live.create_namespace("db")
    model = {i: ("abc"[i % 3], i) for i in range(100)}
    table = live.create_table("db.t", schema=rows(model).schema)
    table.append(rows(model))
    note(work, table, model)


def write(url, key, secret, work, stop, seed):
    dice = random.Random(seed)
    table = catalog(url, key, secret, work).load_table("db.t")
    model = {i: ("abc"[i % 3], i) for i in range(100)}
    fresh = 100
    while not stop.is_set():
        step = dice.choice(["append", "append", "append", "overwrite", "delete", "rewrite", "expire"])
        if step == "append" and len(model) < ROWS_MAX:
            new = {fresh + n: (dice.choice("abc"), dice.randrange(1000)) for n in range(dice.randrange(1, 60))}
            fresh += len(new)
            model.update(new)
            table.append(rows(new))
        elif step == "overwrite":
            kind = dice.choice("abc")
            new = {i: (k, v + 1) for i, (k, v) in model.items() if k == kind}
            model.update(new)
            # Two snapshots in one commit: a deletion and an append.
            table.overwrite(rows(new), overwrite_filter=f"kind == '{kind}'")
        elif step == "delete":
            below = dice.randrange(1000)
            model = {i: (k, v) for i, (k, v) in model.items() if not (k == "a" and v < below)}
            table.delete(f"kind == 'a' and value < {below}")
        elif step == "rewrite":
            table.overwrite(rows(model))
        elif step == "expire":
            ids = [snapshot.snapshot_id for snapshot in table.snapshots()]
            keep = {reference.snapshot_id for reference in table.metadata.refs.values()} | set(ids[-KEPT:])
            for old in [i for i in ids if i not in keep][:50]:
                table.maintenance.expire_snapshots().by_id(old).commit()
            table.refresh()
        note(work, table, model)
        time.sleep(PAUSE)


def known(work, snapshot):
    """What the writer wrote down of a snapshot; a commit may be seen before its note."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        with open(f"{work}/commits") as log:
            for line in log:
                if line.endswith("\n") and (noted := json.loads(line))["snapshot"] == snapshot:
                    return noted
        time.sleep(0.05)
    sys.exit(f"nobody committed snapshot {snapshot}")


def scan(url, key, secret, work, mount, engine, scans):
    seed = int(os.environ.get("ICECACHE_SEED") or random.randrange(1 << 32))
    print(f"ICECACHE_SEED={seed}", file=sys.stderr)
    path = f"{mount}/iceberg/db/t"
    hint = lambda: int(open(f"{path}/metadata/version-hint.text").read())
    current = lambda n: json.load(open(f"{path}/metadata/v{n}.metadata.json"))["current-snapshot-id"]

    def read():
        if engine == "pyiceberg":
            from pyiceberg.table import StaticTable
            return StaticTable.from_metadata(path).scan().to_arrow()
        import duckdb
        connection = duckdb.connect()
        connection.execute("LOAD iceberg")
        return connection.execute(f"SELECT id, kind, value FROM iceberg_scan('{path}')").to_arrow_table()

    read()  # what an engine loads at first is no part of a scan
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=write, args=(url, key, secret, work, stop, seed))
    writer.start()
    shown, crossed, done = set(), 0, 0
    give_up = time.monotonic() + PATIENCE
    try:
        # It would be no proof if nothing changed meanwhile.
        while done < int(scans) or len(shown) < 2 + int(scans) // 10:
            before = hint()
            found = of_arrow(read())
            after = hint()
            if after < before:
                sys.exit(f"scan {done}: the version went from {before} back to {after}")
            held = [v for v in range(before, after + 1) if os.path.exists(f"{path}/metadata/v{v}.metadata.json")]
            candidates = {v: known(work, current(v)) for v in held}
            if found not in [noted["digest"] for noted in candidates.values()]:
                sys.exit(f"scan {done} by {engine} holds what no version from {before} to {after} holds: {candidates}")
            if not shown.issuperset(held):
                give_up = time.monotonic() + PATIENCE
            shown.update(held)
            crossed += after > before
            done += 1
            if not writer.is_alive() or time.monotonic() > give_up:
                sys.exit("the writer has ended, or nothing of what it commits is shown")
    finally:
        stop.set()
        writer.join()
    if writer.exitcode:
        sys.exit("the writer has failed")
    print(f"{done} scans by {engine}: {len(shown)} versions were shown, {crossed} scans saw one come", file=sys.stderr)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
