//! Objects that are replaced while somebody reads them, against the rules of Iceberg.
use crate::lake::{Lake, files};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: usize = 1 << 20;

/// Blocks of one byte each, so that every read says which object it is of.
fn object(letter: u8) -> Vec<u8> {
    vec![letter; 4 * MIB]
}

fn byte_at(file: &File, block: usize) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, (block * MIB) as u64)?;
    Ok(byte[0])
}

/// Replaces an object of four blocks of which one was read; nobody ever sees bytes of both.
fn replaced(lake: &Lake, key: &str, path: &Path) {
    let old = File::open(path).unwrap();
    assert_eq!(byte_at(&old, 0).unwrap(), b'a');
    lake.cloud.server.put_into("lake", key, object(b'b'));
    assert_eq!(byte_at(&old, 2).unwrap_err().raw_os_error(), Some(libc::EIO));
    let new = File::open(path).unwrap();
    assert_eq!(byte_at(&new, 2).unwrap(), b'b');
    assert_eq!(byte_at(&new, 0).unwrap(), b'b', "not what the kernel has of the old one");
    // What was opened before stays what it was, as far as it can be read.
    assert_eq!(byte_at(&old, 0).unwrap(), b'a');
    for block in 1..4 {
        assert!(byte_at(&old, block).is_ok_and(|byte| byte == b'a') || byte_at(&old, block).is_err());
    }
    assert!(fs::read(path).unwrap() == object(b'b'));
}

#[test]
fn an_object_that_is_replaced_is_never_mixed() {
    let lake = Lake::prepare(|_| false);
    lake.cloud.server.put_into("lake", "big/object", object(b'a'));
    lake.mount();
    let path = lake.dir.join("objects/s3/lake/big/object");
    replaced(&lake, "big/object", &path);
    // Another size: who opens it anew learns of that, whatever was said of it before.
    let other = path.with_file_name("other");
    lake.cloud.server.put_into("lake", "big/other", object(b'a'));
    let old = File::open(&other).unwrap();
    assert_eq!(byte_at(&old, 0).unwrap(), b'a');
    lake.cloud.server.put_into("lake", "big/other", vec![b'd'; 5 * MIB]);
    assert_eq!(byte_at(&old, 2).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(fs::read(&other).unwrap() == vec![b'd'; 5 * MIB]);
    assert_eq!(fs::metadata(&other).unwrap().len(), 5 * MIB as u64);
    drop(old);
    // And after a restart.
    lake.cloud.server.put_into("lake", "big/object", vec![b'c'; 5 * MIB]);
    lake.unmount();
    lake.mount();
    assert_eq!(fs::metadata(&path).unwrap().len(), 5 * MIB as u64);
    assert!(fs::read(&path).unwrap() == vec![b'c'; 5 * MIB]);
    lake.unmount();
}

/// Under the path of a table the last block comes when a file is opened: of a small one that is all, which stays what it
/// was for who has it open, whatever the store has by now.
#[test]
fn a_file_of_a_table_that_is_replaced_is_never_mixed() {
    let lake = Lake::prepare(|_| false);
    lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh", "--tables-block", "4KiB"]).must("mount");
    let data = lake.table("avro").join("data");
    let file = files(&data).remove(0);
    let key = format!("wh/db/avro/data/{}", file.strip_prefix(&data).unwrap().display());
    let (old, bytes) = (File::open(&file).unwrap(), lake.objects[&key].clone());
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    lake.cloud.server.put_into("lake", &key, other.clone());
    let mut read = vec![0; bytes.len()];
    old.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "it is what was opened");
    drop(old);
    // One of another size is no file of that table, whoever has read the one before.
    lake.cloud.server.put_into("lake", &key, other[1..].to_vec());
    let call = lake.tables("invalidate", &["db.avro"]);
    call.must("invalidate");
    assert_eq!(fs::read(&file).unwrap_err().raw_os_error(), Some(libc::EIO));
    lake.unmount();
}

/// Whoever has an object open that the kernel serves keeps it; whoever opens it anew gets the new one, of whatever size.
#[test]
fn an_object_that_is_replaced_while_somebody_has_it_open_is_the_new_one() {
    let lake = Lake::prepare(|_| false);
    lake.cloud.server.put_into("lake", "big/object", object(b'a'));
    lake.mount();
    let path = lake.dir.join("objects/s3/lake/big/object");
    assert!(fs::read(&path).unwrap() == object(b'a'));
    let old = File::open(&path).unwrap(); // all of it is here by now
    lake.cloud.server.put_into("lake", "big/object", object(b'b'));
    assert!(fs::read(&path).unwrap() == object(b'b'), "it is asked for anew");
    for block in 0..4 {
        assert_eq!(byte_at(&old, block).unwrap(), b'a');
    }
    let new = File::open(&path).unwrap();
    assert_eq!(byte_at(&new, 3).unwrap(), b'b');
    drop((old, new));
    assert!(fs::read(&path).unwrap() == object(b'b'));
    lake.unmount();
}
