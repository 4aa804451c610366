"""A function that keeps a counter in SQLite, in the directory that is kept."""
import os
import sqlite3
import time

DIR = os.environ["ICECACHE_DIR"]
HELD = []


def connect():
    db = sqlite3.connect(os.path.join(DIR, "counter.db"), isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS counter (n INTEGER NOT NULL)")
    return db


# A connection at module level, as many a handler has it.
if os.environ.get("TEST_CONNECTS"):
    HELD.append(connect())


def handler(event, context):
    op = event.get("op", "add")
    if op == "crash":
        os._exit(3)
    if op == "ping":
        return {}
    if op == "hold":
        HELD.append(open(os.path.join(DIR, "counter.db"), "r+b"))
        return {}
    if op == "write":
        with open(os.path.join(DIR, event["file"]), "w") as file:
            file.write(event["text"])
        return {}
    with sqlite3.connect(os.path.join(DIR, "counter.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE IF NOT EXISTS counter (n INTEGER NOT NULL)")
        if op in ("add", "fail", "slow"):
            db.execute("INSERT INTO counter SELECT coalesce(max(n), 0) + 1 FROM counter")
            db.commit()
        (count,) = db.execute("SELECT coalesce(max(n), 0) FROM counter").fetchone()
    if op == "fail":
        raise RuntimeError("told to fail")
    if op == "slow":
        time.sleep(event["seconds"])
    return {"count": count}
