//! [`Edit`]: what programs did to a file that is not on the disk, without its content.
use crate::clock::Timestamp;
use crate::state::absent::tree::Look;
use serde::{Deserialize, Serialize};

/// See the module. Each is whole by itself: a name that is given and the one that is lost by that are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// A file got a name in a directory; nothing else has that name any more.
    Name {
        /// Its number.
        file: u32,
        /// The node of the name that it lost, if it was renamed.
        from: Option<u32>,
        /// The node of the directory.
        dir: u32,
        /// The name.
        name: Vec<u8>,
    },
    /// A directory that no layer has became a node. It is told by a move which follows.
    Directory,
    /// A file got attributes.
    Look {
        /// Its number.
        file: u32,
        /// All of them.
        look: Look,
    },
    /// A directory that is about to move, or to become a node, was made at this time: by that it is told from
    /// later ones with its inode number.
    Born {
        /// Its node.
        node: u32,
        /// When it was made.
        time: Timestamp,
    },
}
