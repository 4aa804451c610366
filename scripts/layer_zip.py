"""layer_zip.py ZIP PROGRAM: the layer of AWS Lambda, with the same bytes whenever it is written.

/opt/icecache is the program, which is the wrapper, too; /opt/extensions/icecache starts it as an extension. A copy would
double the layer, and whether a layer may hold a link nobody says.
"""
import sys
import zipfile

EXTENSION = b"#!/bin/sh\nexec /opt/icecache extension\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
UNIX = 3


def main(path, program):
    with open(program, "rb") as file:
        content = file.read()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as layer:
        for name, data in (("extensions/icecache", EXTENSION), ("icecache", content)):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = UNIX
            entry.external_attr = 0o100755 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            layer.writestr(entry, data)


main(*sys.argv[1:])
