//! [`Said`]: what a log says, read record by record.
use super::{
    COMING, EDIT, EDIT_BYTES_MAX, Edit, Fate, INODE_HIGH, INODE_LOW, MOVED, PIECE, RECORD_BYTES, TOUCHED,
    WITNESS, sealed,
};
use crate::state::absent::witness::Witness;

/// Something that was put on the disk, and how it can be known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// An entry is about to come; its change time is not known yet.
    Coming(u32, Witness),
    /// It came.
    Came(u32, Witness),
    /// A directory was this before names came to it; nobody could say what it was afterwards.
    Touching(u32, Witness),
    /// A directory was the first before names came to it, and the second afterwards.
    Touched(u32, Witness, Witness),
}

/// Something that happened to what was not on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What became of an entry.
    Became(Fate, u32),
    /// What programs did to it.
    Edited(Edit),
}

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// Directories that were moved, by their inode numbers.
    pub moves: Vec<(u32, u64)>,
    /// What was put on the disk, oldest first.
    pub seen: Vec<Seen>,
}

/// What the records before are the beginning of.
#[derive(Debug)]
enum Begun {
    Nothing,
    /// A witness may follow.
    Came(u32),
    Coming(u32),
    Touched(u32),
    Touching(u32, Witness),
    Moved(u32),
    MovedLow(u32, u32),
    /// So many bytes, and those that were read.
    Edit(usize, Vec<u8>),
}

impl Begun {
    /// Whether nothing would be missing if the log ended here.
    fn is_whole(&self) -> bool {
        matches!(self, Self::Nothing | Self::Came(_) | Self::Touching(..))
    }
}

/// A record that is damaged and not the end: so many are before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    /// Whole ones.
    pub records: usize,
}

/// Whether a record is as it was written.
fn is_sealed(record: &[u8]) -> bool {
    matches!(record, &[kind, a, b, c, d, e, f, g, ..] if sealed([kind, a, b, c, d, e, f, g]) == record)
}

/// Whether this, which begins with no record, is what a failure of the machine leaves of an end that the disk did not
/// have yet: nothing that was written follows, or the block that is missing reads as zeros.
fn is_torn(rest: &[u8]) -> bool {
    let mut records = rest.chunks_exact(RECORD_BYTES);
    records.next().is_none_or(|first| first.iter().all(|byte| *byte == 0)) || !records.any(is_sealed)
}

impl Said {
    /// Reads records up to the end, or the first that makes no sense. Also returns how many of them are whole:
    /// of a move or an edit that is cut off, none is. One in the middle is skipped: the disk was full.
    pub fn parse(records: &[u8]) -> Result<(Self, usize), Damaged> {
        let (mut said, mut begun, mut whole) = (Self::default(), Begun::Nothing, 0);
        for (count, bytes) in records.chunks_exact(RECORD_BYTES).enumerate() {
            let &[kind, a, b, c, d, e, f, g, ..] = bytes else { break };
            if !is_sealed(bytes) {
                // To go on without what follows would bring back what was removed.
                if !is_torn(&records[count * RECORD_BYTES..]) {
                    return Err(Damaged { records: count });
                }
                break;
            }
            let is_number = ![WITNESS, PIECE].contains(&kind);
            if is_number && [a, b, c] != [0; 3] {
                break;
            }
            let before = std::mem::replace(&mut begun, Begun::Nothing);
            let next = match kind {
                WITNESS => said.witness(&before, Witness([a, b, c, d, e, f, g])),
                PIECE => said.piece(before, &[a, b, c, d, e, f, g]),
                kind => said.record(&before, kind, u32::from_le_bytes([d, e, f, g])),
            };
            let Some(next) = next else { break };
            begun = next;
            if begun.is_whole() {
                whole = count + 1;
            }
        }
        said.ended(&begun);
        Ok((said, whole))
    }

    fn witness(&mut self, begun: &Begun, witness: Witness) -> Option<Begun> {
        match *begun {
            Begun::Came(node) => self.seen.push(Seen::Came(node, witness)),
            Begun::Coming(node) => self.seen.push(Seen::Coming(node, witness)),
            Begun::Touched(node) => return Some(Begun::Touching(node, witness)),
            Begun::Touching(node, before) => self.seen.push(Seen::Touched(node, before, witness)),
            Begun::Nothing | Begun::Moved(_) | Begun::MovedLow(..) | Begun::Edit(..) => return None,
        }
        Some(Begun::Nothing)
    }

    fn piece(&mut self, begun: Begun, seven: &[u8; 7]) -> Option<Begun> {
        let (length, mut bytes) = match begun {
            Begun::Edit(length, bytes) => (length, bytes),
            other => {
                self.ended(&other);
                return None;
            }
        };
        bytes.extend(seven.iter().take(length - bytes.len()));
        if bytes.len() < length {
            return Some(Begun::Edit(length, bytes));
        }
        let (edit, rest) = postcard::take_from_bytes(&bytes).ok()?;
        rest.is_empty().then(|| self.events.push(Event::Edited(edit)))?;
        Some(Begun::Nothing)
    }

    fn record(&mut self, begun: &Begun, kind: u8, number: u32) -> Option<Begun> {
        match *begun {
            Begun::Moved(node) if kind == INODE_LOW => return Some(Begun::MovedLow(node, number)),
            Begun::MovedLow(node, low) if kind == INODE_HIGH => {
                self.moves.retain(|(other, _)| *other != node);
                self.moves.push((node, u64::from(number) << 32 | u64::from(low)));
                return Some(Begun::Nothing);
            }
            // Of what was begun and is not gone on with nothing is said: what it was of has failed.
            _ => self.ended(begun),
        }
        match (Fate::from_byte(kind), kind) {
            (Some(fate), _) => {
                // A move that came to nothing.
                if fate == Fate::Here {
                    self.moves.retain(|(node, _)| *node != number);
                }
                self.events.push(Event::Became(fate, number));
                Some(if fate == Fate::Here { Begun::Came(number) } else { Begun::Nothing })
            }
            (None, MOVED) => Some(Begun::Moved(number)),
            (None, TOUCHED) => Some(Begun::Touched(number)),
            (None, COMING) => Some(Begun::Coming(number)),
            (None, EDIT) => {
                let bytes = number as usize;
                (1..=EDIT_BYTES_MAX).contains(&bytes).then_some(Begun::Edit(bytes, Vec::new()))
            }
            _ => None,
        }
    }

    /// What was begun is not gone on with.
    fn ended(&mut self, begun: &Begun) {
        if let Begun::Touching(node, before) = *begun {
            self.seen.push(Seen::Touching(node, before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn became(fate: Fate, node: u8) -> [u8; RECORD_BYTES] {
        sealed([fate as u8, 0, 0, 0, node, 0, 0, 0])
    }

    fn three() -> Vec<u8> {
        [became(Fate::Removed, 1), became(Fate::Here, 2), became(Fate::Removed, 3)].concat()
    }

    #[test]
    fn what_others_follow_is_no_torn_end() {
        let whole = three();
        for bit in 0..whole.len() * 8 {
            let (mut records, at) = (whole.clone(), bit / 8 / RECORD_BYTES);
            records[bit / 8] ^= 1 << (bit % 8);
            match Said::parse(&records) {
                Err(damaged) => assert_eq!((damaged, at < 2), (Damaged { records: at }, true)),
                Ok((said, whole)) => assert_eq!((at, whole, said.events.len()), (2, 2, 2)),
            }
        }
    }

    #[test]
    fn a_failure_of_the_machine_leaves_a_torn_end() {
        for end in 0..three().len() {
            let read = Said::parse(&three()[..end]).map(|(_, whole)| whole);
            assert_eq!(read, Ok(end / RECORD_BYTES));
        }
        // The disk had a later block already, but not this one.
        for missing in 0..3 {
            let mut records = three();
            records[missing * RECORD_BYTES..][..RECORD_BYTES].fill(0);
            assert_eq!(Said::parse(&records).map(|(_, whole)| whole), Ok(missing));
        }
        let noise = [&three()[..], &[0xa5; 3 * RECORD_BYTES]].concat();
        assert_eq!(Said::parse(&noise).map(|(_, whole)| whole), Ok(3));
    }
}
