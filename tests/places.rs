//! Where things go when nobody says: the real default places, `/tmp`, mount(8) and /etc/fstab, all in a mount
//! name space of their own with fresh disks over every place that is written to. For root only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::lab::BIN;
use harness::{LIMIT, run, skip};
use std::path::Path;
use std::process::Command;

/// Disks over everything a mount of /tmp writes to; the program in PATH; no configuration.
const PRELUDE: &str = r#"
mkdir "$1/bin"; cp "$2" "$1/bin/icecache"; [ ! -e "$3" ] || cp "$3" "$1/bin/mount.icecache"; chmod -R a+rX "$1"
mount -t tmpfs disk /mnt; mkdir /mnt/bin; cp "$1"/bin/* /mnt/bin
for dir in /run /var/lib /root /srv; do mount -t tmpfs disk $dir; done
mount -t tmpfs -o mode=1777 disk /tmp
export PATH=/mnt/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
said() { grep -q -- "$1" /run/said || { echo "not said: $1"; cat /run/said; exit 1; }; }
is() { [ "$1" = "$2" ] || { echo "expected '$2', found '$1'"; exit 1; }; }
trap 'code=$?; [ $code = 0 ] || cat /var/lib/icecache/state/*/daemon.log
  for dir in /tmp /srv/data /srv/other; do icecache unmount $dir 2>/dev/null || :; done; exit $code' EXIT
"#;

/// Runs a script after [`PRELUDE`]. `false`, with a word, where there are no name spaces of our own.
fn apart(what: &str, script: &str) -> bool {
    if !harness::is_root() {
        skip(what, "only root may mount over /tmp");
        return false;
    }
    if !run(
        Command::new("unshare").args(["-m", "--propagation", "private", "mount", "-t", "tmpfs", "x", "/mnt"]),
        LIMIT,
    )
    .ok()
    {
        skip(what, "no mount name space of our own");
        return false;
    }
    let temp = tempfile::Builder::new().prefix("icecache-places-").tempdir_in("/var/tmp").unwrap();
    let script = format!("{PRELUDE}{script}");
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-euc", &script, "sh"]);
    command.arg(temp.path()).arg(BIN).arg(helper()).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    run(&mut command, LIMIT).must(what);
    true
}

/// What mount(8) calls; built beside our program with the whole workspace.
fn helper() -> std::path::PathBuf {
    Path::new(BIN).with_file_name("mount-icecache")
}

/// SEMANTICS, Mount: "`icecache mount /tmp` needs nothing else: without a remote a directory of this machine serves, and
/// one line says which."
#[test]
fn tmp_is_mounted_with_no_option_at_all_and_comes_back_on_a_new_disk() {
    apart(
        "mount /tmp",
        r#"
echo was here >/tmp/before
icecache mount /tmp 2>/run/said
said "/tmp is kept in file:///var/lib/icecache/remote as tmp"
said "no remote is configured"
is "$(stat -c %a /tmp)" 1777
file=$(mktemp); echo temporary >"$file"
# /tmp stays everybody's, and what belongs to root stays root's.
setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'echo other >/tmp/others && cat /tmp/before' >/dev/null
! setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'echo broken >/tmp/before' 2>/dev/null
is "$(icecache flush /tmp --wait 2>/dev/null)" 1
icecache unmount /tmp
is "$(cat /tmp/before)" "was here"

umount /tmp; mount -t tmpfs disk /tmp; rm -r /var/lib/icecache/state
icecache mount /tmp
is "$(cat /tmp/before "$file" /tmp/others)" "$(printf 'was here\ntemporary\nother')"
is "$(stat -c %u /tmp/others)" 65534
is "$(stat -c %a /tmp)" 1777
icecache unmount /tmp
"#,
    );
}

/// SEMANTICS, Mount: "The remote comes from a flag, else from `ICECACHE_REMOTE`, else from `S3_BUCKET` and `S3_PREFIX`, else
/// from the configuration file. A start that came to nothing does not bind a directory to its remote."
#[test]
fn the_remote_comes_from_environment_or_configuration() {
    apart(
        "remote from the environment",
        r#"
export AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b
export ICECACHE_S3_ENDPOINT=http://127.0.0.1:9 ICECACHE_S3_REGION=r
mkdir -p /srv/data $HOME/.config/icecache
code=0; S3_BUCKET=bucket S3_PREFIX=/pre/fix/ icecache mount /srv/data 2>/run/said || code=$?
said "is kept in s3://bucket/pre/fix as srv-data"; is $code 6
code=0; S3_BUCKET=bucket ICECACHE_REMOTE=file:///srv/one icecache mount /srv/data 2>/run/said || code=$?
said "is kept in file:///srv/one as srv-data"; is $code 0
echo kept >/srv/data/file; icecache flush /srv/data --wait; icecache unmount /srv/data
# From now on it belongs there.
code=0; ICECACHE_REMOTE=file:///srv/two icecache mount /srv/data 2>/run/said || code=$?
said "file:///srv/one"; is $code 2
printf 'remote = "file:///srv/one"\n[mount."/srv/data"]\nfsync = "remote"\n' >$HOME/.config/icecache/config.toml
icecache mount /srv/data 2>/run/said
said "is kept in file:///srv/one as srv-data"
icecache config /srv/data | grep -q '^fsync .*remote .*config.toml:3'
icecache unmount /srv/data
"#,
    );
}

/// SEMANTICS, Mount: "mount(8) and /etc/fstab do the same through `mount.icecache`."
#[test]
fn mount_8_and_fstab() {
    if !helper().exists() {
        return skip("mount(8)", "mount-icecache is not built (cargo build --workspace)");
    }
    apart(
        "mount(8)",
        r#"
mkdir /run/up /run/work /srv/data /srv/other
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/run/up,workdir=/run/work overlay /usr/sbin ||
  { echo "SKIPPED mount(8): no overlay to put the helper into"; exit 0; }
cp /mnt/bin/mount.icecache /usr/sbin/mount.icecache; cp /mnt/bin/icecache /usr/sbin/icecache
mount -t icecache file:///srv/remote /srv/data -o name=x,debounce=100ms,nosuid
echo one >/srv/data/file
grep -q ' /srv/data .*nosuid.* - fuse.icecache icecache:x ' /proc/self/mountinfo
is "$(icecache flush /srv/data --wait 2>/dev/null)" 1
umount /srv/data
is "$(cat /srv/data/file)" one
printf '/srv/remote /srv/other icecache name=x,state_dir=/run/state,noauto,_netdev,nofail,x-systemd.automount 0 0\n' >/run/fstab
for _ in 1 2 3 4 5 6 7 8 9; do [ -e /var/lib/icecache/state/*/lock ] && flock -w 9 /var/lib/icecache/state/*/lock true && break; done
mount -T /run/fstab /srv/other
is "$(cat /srv/other/file)" one
code=0; mount -T /run/fstab /srv/other 2>/run/said || code=$?
[ $code != 0 ]; said "already mounted"
umount /srv/other
! mount -t icecache file:///srv/remote /srv/data -o ro 2>/run/said; said writable
"#,
    );
}
