"""invoke.py PROGRAM WORK URL BUCKET FILES ROUNDS: the measuring part of scripts/bench/invoke.

WORK/requests has a line for each request that was made of the store so far.
"""
import collections
import datetime
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parents[2] / "tests" / "lambda"
LAYER_BYTES = 700  # some; see the row of the bytes that were sent
LIMIT = 60  # seconds for one invocation


class Sandbox:
    """The Runtime API: one invocation at a time."""

    def __init__(self):
        self.waiting, self.answers = queue.Queue(), queue.Queue()
        sandbox = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer is one packet: else the second waits 40 ms for word of the first.
            disable_nagle_algorithm, wbufsize = True, -1

            def log_message(self, *_):
                pass

            def reply(self, status, body, headers=()):
                self.send_response(status)
                for name, value in (("Content-Length", len(body)), *headers):
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def do_GET(self):
                number, event = sandbox.waiting.get()
                deadline = int((time.time() + LIMIT) * 1000)
                headers = (("Lambda-Runtime-Aws-Request-Id", number), ("Lambda-Runtime-Deadline-Ms", deadline))
                sandbox.began = time.perf_counter()
                self.reply(200, json.dumps(event).encode(), headers)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sandbox.answers.put((time.perf_counter() - sandbox.began, self.path, body))
                self.reply(202, b'{"status":"OK"}')

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.count = 0

    def api(self):
        return "127.0.0.1:%d" % self.server.server_address[1]

    def invoke(self, event):
        """Milliseconds until its answer."""
        self.count += 1
        self.waiting.put((self.count, event))
        took, path, body = self.answers.get(timeout=LIMIT)
        if not path.endswith("/response"):
            sys.exit(f"an invocation failed: {body}")
        return took * 1000


class Store:
    """Signed requests over one connection (signature version 4)."""

    def __init__(self, url, bucket):
        self.host, self.bucket = url.removeprefix("http://"), bucket
        self.connection = http.client.HTTPConnection(self.host)

    def put(self, key, body):
        """Milliseconds until it is there."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        digest, path = hashlib.sha256(body).hexdigest(), f"/{self.bucket}/{key}"
        headers = {"host": self.host, "x-amz-content-sha256": digest, "x-amz-date": now}
        names, region = ";".join(headers), os.environ["AWS_REGION"]
        canonical = "\n".join(["PUT", path, "", *(f"{k}:{v}" for k, v in headers.items()), "", names, digest])
        scope = f"{now[:8]}/{region}/s3/aws4_request"
        sign = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        for part in (*scope.split("/"), text):
            sign = hmac.new(sign, part.encode(), hashlib.sha256).digest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, SignedHeaders={names}, Signature={sign.hex()}"
        )
        began = time.perf_counter()
        self.connection.request("PUT", path, body, headers)
        reply = self.connection.getresponse()
        reply.read()
        took = time.perf_counter() - began
        if reply.status != 200:
            sys.exit(f"PUT: {reply.status}")
        return took * 1000


def runtime(sandbox, place, *wrapper, **variables):
    environment = {**os.environ, "AWS_LAMBDA_RUNTIME_API": sandbox.api(), "ICECACHE_DIR": str(place), **variables}
    command = [*wrapper, sys.executable, str(TESTS / "runtime.py")]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def main(program, work, url, bucket, files, rounds):
    work, files, rounds = pathlib.Path(work), int(files), int(rounds)
    log = work / "requests"
    sandboxes, processes = {}, []
    try:
        for name in ("bare", "kept"):
            place = work / name
            for n in range(files):
                within = place / f"d{n // 100:03}"
                if n % 100 == 0:
                    within.mkdir(parents=True)
                (within / f"file{n:06}").write_text(str(n))
            sandboxes[name] = Sandbox()
            wrapper, variables = (), {}
            if name == "kept":
                wrapper, variables = (program,), {
                    "AWS_LAMBDA_EXEC_WRAPPER": program,
                    "AWS_LAMBDA_FUNCTION_NAME": "bench",
                    "ICECACHE_REMOTE": f"s3://{bucket}/invoke",
                    "ICECACHE_S3_ENDPOINT": url,
                    "ICECACHE_S3_PATH_STYLE": "on",
                    "ICECACHE_STATE_DIR": "/dev/null/icecache",
                }
            processes.append(runtime(sandboxes[name], place, *wrapper, **variables))
            for _ in range(3):
                sandboxes[name].invoke({"op": "ping"})
        store, taken, requests = Store(url, bucket), collections.defaultdict(list), collections.Counter()
        body = os.urandom(LAYER_BYTES)
        for n in range(rounds):
            event = {"op": "write", "file": f"d{n % (files // 100):03}/file{n % (files // 100) * 100:06}", "text": f"round {n}"}
            taken["bare"].append(sandboxes["bare"].invoke(event))
            taken["put"].append(store.put("bare", body))
            before = log.read_bytes().count(b"\n")
            taken["kept"].append(sandboxes["kept"].invoke(event))
            for line in log.read_text().splitlines()[before:]:
                method, path = line.partition("?")[0].split()
                requests[method, "layer" if "/layers/" in path else path.rsplit("/", 1)[-1]] += 1
            before = log.read_bytes().count(b"\n")
            taken["bare, unchanged"].append(sandboxes["bare"].invoke({"op": "ping"}))
            taken["kept, unchanged"].append(sandboxes["kept"].invoke({"op": "ping"}))
            requests["unchanged", ""] += log.read_bytes().count(b"\n") - before
    finally:
        for process in processes:
            process.kill()
            process.wait()
    report(taken, requests, rounds)


def report(taken, requests, rounds):
    def row(name, times, goal=""):
        late = statistics.quantiles(times, n=20)[-1]
        print(f"| {name} | {statistics.median(times):.1f} ms | {late:.1f} ms | {goal} |")

    def added(what):
        return [kept - bare for kept, bare in zip(taken["kept" + what], taken["bare" + what])]

    put = statistics.median(taken["put"])
    print("| until the answer | median | 95 % | goal (median) |\n|---|---:|---:|---:|")
    row("one PUT", taken["put"])
    row("one file changed, without us", taken["bare"])
    row("one file changed, kept", taken["kept"])
    row("added", added(""), f"{put + 10:.1f} ms")
    row("nothing changed, without us", taken["bare, unchanged"])
    row("nothing changed, kept", taken["kept, unchanged"])
    row("added", added(", unchanged"))
    print("\n| requests | an invocation |\n|---|---:|")
    unchanged = requests.pop(("unchanged", ""))
    for (method, what), count in sorted(requests.items()):
        print(f"| {method} of {what} | {count / rounds:.2f} |")
    print(f"| any, where nothing changed | {unchanged / rounds:.2f} |")


main(*sys.argv[1:])
