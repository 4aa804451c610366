"""What scripts/suite/tables needs of a mount.

    tables_mount.py upload URL KEY SECRET FOLDER    FOLDER/<bucket>/<key> into the buckets of an S3 server
    tables_mount.py published MOUNT                 a line of JSON for each table that is shown, as examples/publish.rs
                                                    of the crate prints them
"""
import json
import os
import sys


def upload(url, key, secret, folder):
    from pyarrow import fs
    scheme, _, host = url.partition("://")
    store = fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=host, scheme=scheme,
                            region="us-east-1", allow_bucket_creation=True)
    for bucket in os.listdir(folder):
        store.create_dir(bucket)
        for at, _, names in os.walk(os.path.join(folder, bucket)):
            for name in names:
                path = os.path.join(at, name)
                with open(path, "rb") as source, store.open_output_stream(os.path.relpath(path, folder)) as out:
                    out.write(source.read())


def published(mount):
    names = lambda *path: sorted(os.listdir(os.path.join(mount, *path)))
    text = lambda *path: open(os.path.join(mount, *path)).read()
    # Catalogs by name; of a single table its own folder stands there.
    for catalog in names("iceberg"):
        for top in names("iceberg", catalog):
            below = os.path.join("iceberg", catalog, top)
            tables = [below] if "metadata" in names(below) else [os.path.join(below, name) for name in names(below)]
            for path in tables:
                line = {"table": catalog if tables == [below] else os.path.basename(path), "path": path}
                if "ERROR" in names(path):
                    line["error"] = text(path, "ERROR")
                else:
                    line["number"] = int(text(path, "metadata", "version-hint.text"))
                    metadata = json.loads(text(path, "metadata", f"v{line['number']}.metadata.json"))
                    line["snapshots"] = {name: f"snapshots/{name}" for name in names(path, "snapshots")}
                    # When which snapshot became the current one.
                    line["times"] = {f"@{entry['timestamp-ms']}": str(entry["snapshot-id"])
                                     for entry in metadata.get("snapshot-log", [])
                                     if str(entry["snapshot-id"]) in line["snapshots"]}
                    line["refs"] = {name.replace("~2f", "/"): f"refs/{name}" for name in names(path, "refs")}
                print(json.dumps(line))


globals()[sys.argv[1]](*sys.argv[2:])
