"""containers_spec.py CONFIG REMOTE TRAIT... -- COMMAND...: the specification of a container as the traits say.

It starts from what umoci makes of an image, with the rights that engines give by default.
  device      /dev/fuse is there, and the device rules let it be opened; mode=600: for root alone
  bind        the device of the machine is there, but no rule lets it be opened
  cap=NAME    a right more; only: and no other
  no-userns   no user namespaces, as the filter of system calls has it that engines use
  userns      the container is in a user namespace, its root is 100000 outside
  user=N      the command runs as that user
  readonly    nothing can be written but the directory that is kept, which is empty memory
"""
import json
import os
import stat
import sys

USUAL = """AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP
SETUID SYS_CHROOT""".split()
FUSE = {"type": "c", "major": 10, "minor": 229}


def main(path, remote, *words):
    at = words.index("--")
    traits = dict(word.partition("=")[::2] for word in words[:at])
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    process, linux = spec["process"], spec["linux"]
    user = int(traits.get("user", 0))
    process["terminal"] = False
    process["args"] = list(words[at + 1 :])
    process["user"] = {"uid": user, "gid": user}
    process["env"] = ["PATH=/bin", "HOME=/tmp"]
    process["noNewPrivileges"] = False
    process.pop("apparmorProfile", None)
    rights = [] if "only" in traits else list(USUAL)
    rights += [traits["cap"]] if "cap" in traits else []
    held = sorted("CAP_" + right for right in rights)
    process["capabilities"] = {"bounding": held, "permitted": held if user == 0 else [], "effective": held if user == 0 else []}
    spec["root"]["readonly"] = "readonly" in traits
    spec["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/remote", "type": "bind", "source": remote, "options": ["rbind", "rw"]},
    ]
    if "readonly" in traits:
        spec["mounts"].append({"destination": "/kept", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]})
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    # /proc stays visible as a whole: in a namespace of its own a process needs it to make another.
    linux["maskedPaths"], linux["readonlyPaths"] = [], []
    rules = linux.setdefault("resources", {})["devices"] = [{"allow": False, "access": "rwm"}]
    linux["devices"] = []
    linux.pop("seccomp", None)
    if "device" in traits:
        rules.append({"allow": True, "access": "rwm", **FUSE})
        linux["devices"].append({"path": "/dev/fuse", "fileMode": int(traits.get("mode", "666"), 8), "uid": 0, "gid": 0, **FUSE})
    if "bind" in traits:
        device = os.stat("/dev/fuse")
        assert stat.S_ISCHR(device.st_mode)
        spec["mounts"].append({"destination": "/dev/fuse", "type": "bind", "source": "/dev/fuse", "options": ["bind", "rw"]})
    if "no-userns" in traits:
        refused = [{"names": ["unshare", "mount", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
        linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused}
    if "userns" in traits:
        linux["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        linux["uidMappings"], linux["gidMappings"] = ids, ids
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)


main(*sys.argv[1:])
