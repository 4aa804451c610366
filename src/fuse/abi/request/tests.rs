//! Requests as the kernel sends them, in one piece and in two.
use super::*;
use zerocopy::{FromZeros, IntoBytes};

fn header(opcode: u32) -> InHeader {
    let mut header = InHeader::new_zeroed();
    header.opcode = opcode;
    header
}

fn read<'a>(header: InHeader, body: Body<'a>) -> Option<Request<'a>> {
    Request::read(header, body, Features::default())
}

/// Reads `fixed` and `rest` both ways; they must say the same.
fn both(opcode: Opcode, fixed: &[u8], rest: &[u8]) -> String {
    both_agreed(Features::default(), opcode, fixed, rest)
}

/// The same where something is agreed.
fn both_agreed(agreed: Features, opcode: Opcode, fixed: &[u8], rest: &[u8]) -> String {
    let header = header(opcode as u32);
    let whole = [fixed, rest].concat();
    let one = Request::read(header, Body::whole(&whole), agreed).map(|r| format!("{:?}", r.operation));
    // The area of a ring is always longer than the struct in it.
    let area = [fixed, &[0xee; 128]].concat();
    let area = if fixed.is_empty() { &[][..] } else { &area[..] };
    let two = Request::read(header, Body::split(area, rest), agreed).map(|r| format!("{:?}", r.operation));
    assert_eq!(one, two);
    one.expect("valid")
}

fn words(words: &[u32]) -> Vec<u8> {
    words.as_bytes().to_vec()
}

#[test]
fn names_stand_behind_the_struct() {
    assert_eq!(both(Opcode::Lookup, b"", b"name\0"), r#"Lookup { name: "name" }"#);
    assert_eq!(both(Opcode::Symlink, b"", b"name\0to/it\0"), r#"Symlink { name: "name", target: "to/it" }"#);
    assert_eq!(
        both(Opcode::Mknod, &words(&[0o644, 5, 0o22, 0]), b"n\0"),
        r#"Mknod { name: "n", mode: 420, umask: 18, rdev: 5 }"#
    );
    assert_eq!(
        both(Opcode::Rename2, &words(&[9, 0, 2, 0]), b"a\0b\0"),
        r#"Rename { name: "a", new_parent: 9, new_name: "b", flags: 2 }"#
    );
    assert_eq!(
        both(Opcode::Rename, &words(&[9, 0]), b"a\0b\0"),
        r#"Rename { name: "a", new_parent: 9, new_name: "b", flags: 0 }"#
    );
    assert_eq!(
        both(Opcode::Setxattr, &words(&[3, 1]), b"user.x\0abc"),
        r#"Setxattr { name: "user.x", value: [97, 98, 99], flags: 1, kill_setgid: false }"#
    );
    for (more, kills) in [(0, false), (1, true), (2, false)] {
        let fixed = words(&[3, 1, more, 0]);
        assert_eq!(
            both_agreed(Features::SETXATTR_EXT, Opcode::Setxattr, &fixed, b"user.x\0abc"),
            format!(r#"Setxattr {{ name: "user.x", value: [97, 98, 99], flags: 1, kill_setgid: {kills} }}"#)
        );
    }
    assert_eq!(
        both(Opcode::Create, &words(&[0o102, 0o100_644, 0o22, 0]), b"f\0"),
        r#"Create { name: "f", mode: 33188, umask: 18, flags: 66, kill_privileges: false }"#
    );
}

#[test]
fn data_of_a_write_is_as_long_as_it_says() {
    let fixed = words(&[7, 0, 4096, 0, 3, 4, 0, 0, 0, 0]);
    assert_eq!(
        both(Opcode::Write, &fixed, b"abc"),
        "Write { handle: 7, offset: 4096, data: [97, 98, 99], kill_privileges: true }"
    );
    assert!(read(header(16), Body::split(&fixed, b"ab")).is_none());
}

#[test]
fn setattr_sets_what_is_marked() {
    let mut asked = [0u32; 22];
    asked[0] = valid::MODE | valid::ATIME | valid::MTIME | valid::MTIME_NOW | valid::KILL_PRIVILEGES;
    (asked[8], asked[9], asked[14], asked[17]) = (u32::MAX, u32::MAX, 5, 0o600);
    let said = both(Opcode::Setattr, &words(&asked), b"");
    assert!(said.contains("mode: Some(384)") && said.contains("uid: None"), "{said}");
    assert!(
        said.contains("At(Timestamp { sec: -1, nsec: 5 })") && said.contains("mtime: Some(Now)"),
        "{said}"
    );
    assert!(said.contains("drop_privileges: true") && said.contains("handle: None"), "{said}");
}

/// So the kernel asks for chown(2) that leaves owner and group, and for the bits to go with a write: without a word.
#[test]
fn setattr_of_nothing_drops_privileges() {
    for (valid, drops) in [(0, true), (valid::HANDLE, true), (valid::MODE, false), (valid::ATIME_NOW, false)]
    {
        let mut asked = [0u32; 22];
        asked[0] = valid;
        let said = both(Opcode::Setattr, &words(&asked), b"");
        assert!(said.contains(&format!("drop_privileges: {drops}")), "{valid:x}: {said}");
    }
}

#[test]
fn forgets_come_in_bundles() {
    let fixed = words(&[2, 0]);
    let items: Vec<u8> = [1u64, 2, 3, 4].as_bytes().to_vec();
    let said = both(Opcode::BatchForget, &fixed, &items);
    assert!(said.contains("inode: 3, count: 4"), "{said}");
    assert!(read(header(42), Body::split(&fixed, &items[..31])).is_none());
}

#[test]
fn nothing_short_is_read_beyond_its_end() {
    for opcode in 0..64 {
        for length in 0..100 {
            let bytes = vec![0x41; length];
            for agreed in [Features::default(), Features::SETXATTR_EXT] {
                let _any = Request::read(header(opcode), Body::whole(&bytes), agreed);
                let _any = Request::read(header(opcode), Body::split(&bytes, b""), agreed);
            }
        }
    }
    assert!(read(header(Opcode::Lookup as u32), Body::whole(b"no end")).is_none());
    assert!(matches!(read(header(9999), Body::whole(b"")).map(|r| r.operation), Some(Operation::Unknown)));
}
