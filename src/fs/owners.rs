//! [`Owners`]: whom a file belongs to once it is made here, whatever a version says of that.
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{CapabilitySet, capabilities};
use std::io;

/// What this process may give files to: to everybody that has a place in its user namespace, or, as an ordinary user, to
/// nobody else, and to the groups that it is in.
#[derive(Debug)]
pub(super) struct Owners {
    gives: bool,
    user: u32,
    group: u32,
    groups: Vec<u32>,
    users_there: Ids,
    groups_there: Ids,
}

impl Owners {
    pub(super) fn of_this_process() -> io::Result<Self> {
        let there = |map: &str| {
            std::fs::read_to_string(format!("/proc/self/{map}")).map_or(Ids::all(), |map| Ids::of(&map))
        };
        Ok(Self {
            gives: capabilities(None)?.effective.contains(CapabilitySet::CHOWN),
            user: geteuid().as_raw(),
            group: getegid().as_raw(),
            groups: getgroups()?.into_iter().map(|group| group.as_raw()).collect(),
            users_there: there("uid_map"),
            groups_there: there("gid_map"),
        })
    }

    /// Owner and group of a file that is made here and meant to have these: as what writes it to the disk fares, which
    /// sets both, or else the group alone.
    pub(super) fn of_made(&self, (user, group): (u32, u32)) -> (u32, u32) {
        let is_own = group == self.group || self.groups.contains(&group);
        if !self.groups_there.has(group) || !(self.gives || is_own) {
            return (self.user, self.group);
        }
        let is_given = self.gives && self.users_there.has(user);
        (if is_given { user } else { self.user }, group)
    }
}

/// The ids that have a place in a user namespace.
#[derive(Debug)]
struct Ids(Vec<(u32, u32)>);

impl Ids {
    /// Where the kernel does not tell.
    fn all() -> Self {
        Self(vec![(0, u32::MAX)])
    }

    /// Of a map as in `/proc/PID/uid_map`: first id inside, first id outside, how many.
    fn of(map: &str) -> Self {
        let pieces = map.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (inside, _outside, count) = (words.next()?, words.next()?, words.next()?);
            Some((inside.parse().ok()?, count.parse().ok()?))
        });
        Self(pieces.collect())
    }

    fn has(&self, id: u32) -> bool {
        self.0.iter().any(|(first, count)| id.checked_sub(*first).is_some_and(|at| at < *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "         0          0 4294967295\n";

    fn owners(gives: bool, map: &str) -> Owners {
        let (users_there, groups_there) = (Ids::of(map), Ids::of(map));
        Owners { gives, user: 1000, group: 100, groups: vec![24, 100], users_there, groups_there }
    }

    #[test]
    fn an_ordinary_user_makes_what_is_his_and_his_groups() {
        let owners = owners(false, ALL);
        for (meant, made) in
            [((0, 0), (1000, 100)), ((7, 24), (1000, 24)), ((1000, 7), (1000, 100)), ((1000, 24), (1000, 24))]
        {
            assert_eq!(owners.of_made(meant), made, "{meant:?}");
        }
    }

    #[test]
    fn root_gives_to_whom_has_a_place() {
        assert_eq!(owners(true, ALL).of_made((7, 8)), (7, 8));
        let inner = owners(true, "0 100000 1\n1000 1000 10\n");
        for (meant, made) in
            [((0, 1009), (0, 1009)), ((7, 0), (1000, 0)), ((0, 1010), (1000, 100)), ((7, 7), (1000, 100))]
        {
            assert_eq!(inner.of_made(meant), made, "{meant:?}");
        }
    }

    /// The disk is asked, as whoever runs this.
    #[test]
    fn the_disk_makes_them_so() {
        use std::os::unix::fs::{MetadataExt, chown};
        let (owners, file) =
            (Owners::of_this_process().expect("told"), tempfile::NamedTempFile::new().expect("made"));
        for (user, group) in [(owners.user, owners.group), (0, 0), (1234, 4321), (owners.user, 4321)] {
            chown(file.path(), Some(owners.user), Some(owners.group)).expect("ours");
            if chown(file.path(), Some(user), Some(group)).is_err() {
                let _kept = chown(file.path(), None, Some(group));
            }
            let made = std::fs::metadata(file.path()).expect("there");
            assert_eq!(owners.of_made((user, group)), (made.uid(), made.gid()), "{user}:{group}");
        }
    }
}
