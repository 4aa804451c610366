"""A REST catalog that shows what is in a catalog in a file of SQLite, knows ETags, and counts what it is asked.

    tables_rest.py CATALOG URL KEY SECRET

Prints the port it listens on, then for each line on its standard input the counts since the line before, as JSON:
by status, of requests for a table, and all others. Ends with its standard input.
"""
import collections
import http.server
import json
import sqlite3
import sys
import threading
import urllib.parse

from pyarrow import fs

path, url, key, secret = sys.argv[1:]
store = fs.S3FileSystem(access_key=key, secret_key=secret, endpoint_override=url.partition("://")[2], scheme="http",
                        region="us-east-1")
rows = sqlite3.connect(path).execute(
    "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables").fetchall()
tables = {(namespace, name): location for namespace, name, location in rows}
counts = collections.Counter()
lock = threading.Lock()


class Catalog(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=None, etag=None, kind="other"):
        with lock:
            counts[str(status) if kind == "table" else kind] += 1
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        parts = [urllib.parse.unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        query = urllib.parse.parse_qs(self.path.partition("?")[2])
        match parts:
            case ["v1", "config"]:
                self.reply(200, {"defaults": {}, "overrides": {}})
            case ["v1", "namespaces"]:
                names = [] if query.get("parent") else sorted({namespace for namespace, _ in tables})
                self.reply(200, {"namespaces": [[name] for name in names]})
            case ["v1", "namespaces", namespace, "tables"]:
                own = [{"namespace": [n], "name": name} for n, name in tables if n == namespace]
                self.reply(200, {"identifiers": own})
            case ["v1", "namespaces", namespace, "tables", name] if (namespace, name) in tables:
                location = tables[namespace, name]
                etag = f'"{location.rpartition("/")[2]}"'
                if self.headers.get("If-None-Match") == etag:
                    return self.reply(304, etag=etag, kind="table")
                with store.open_input_stream(location.removeprefix("s3://")) as metadata:
                    body = {"metadata-location": location, "metadata": json.load(metadata), "config": {}}
                self.reply(200, body, etag, kind="table")
            case _:
                self.reply(404, {"error": {"message": "no such thing", "type": "NoSuchTableException", "code": 404}})


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Catalog)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
for _ in sys.stdin:
    with lock:
        print(json.dumps(counts), flush=True)
        counts.clear()
