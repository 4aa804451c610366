"""image_index.py LAYOUT: makes the images of an OCI layout, one for each architecture, one image `latest`.

Each of them stays a tag of its own as well.
"""
import hashlib
import json
import os
import sys

INDEX = "application/vnd.oci.image.index.v1+json"
NAME = "org.opencontainers.image.ref.name"


def main(layout):
    def blob(digest):
        with open(os.path.join(layout, "blobs", *digest.split(":")), "rb") as file:
            return json.load(file)

    path = os.path.join(layout, "index.json")
    with open(path, encoding="utf-8") as file:
        index = json.load(file)
    tagged = sorted(index["manifests"], key=lambda manifest: manifest["annotations"][NAME])
    manifests = []
    for manifest in tagged:
        config = blob(blob(manifest["digest"])["config"]["digest"])
        platform = {"architecture": config["architecture"], "os": config["os"]}
        manifests.append({key: manifest[key] for key in ("mediaType", "digest", "size")} | {"platform": platform})
    inner = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
    digest = hashlib.sha256(inner).hexdigest()
    with open(os.path.join(layout, "blobs", "sha256", digest), "wb") as file:
        file.write(inner)
    latest = {"mediaType": INDEX, "digest": f"sha256:{digest}", "size": len(inner), "annotations": {NAME: "latest"}}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"schemaVersion": 2, "manifests": [latest, *tagged]}, file)


main(sys.argv[1])
