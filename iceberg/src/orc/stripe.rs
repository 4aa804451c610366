//! [`Stripe`]: rows that lie together, and where their columns are (specification: Stripes, Stripe Footer).
use super::OrcError;
use super::integers::{Integers, Runs};
use super::message::Fields;
use super::present::all_present;
use super::stream::{Layout, Stream};
use super::strings::Strings;

/// The longest footer of a stripe, unpacked.
const FOOTER_MAX_BYTES: usize = 4 << 20;

/// Where a stripe lies, by the footer of the file; within the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub start: usize,
    /// Where its footer begins, and where that ends.
    pub footer: usize,
    pub end: usize,
    pub rows: u64,
}

/// The streams of one column.
#[derive(Debug, Clone, Copy, Default)]
struct Streams<'a> {
    present: Option<&'a [u8]>,
    data: &'a [u8],
    length: &'a [u8],
    dictionary: &'a [u8],
    /// How they are to be read, and how many strings the dictionary has.
    encoding: u64,
    dictionary_size: u64,
}

/// A stripe, its footer understood.
pub(super) struct Stripe<'a> {
    bytes: &'a [u8],
    place: Place,
    footer: Vec<u8>,
    layout: Layout,
}

impl<'a> Stripe<'a> {
    pub fn read(bytes: &'a [u8], place: Place, layout: Layout) -> Result<Self, OrcError> {
        let footer = Stream::new(&bytes[place.footer..place.end], layout);
        let footer = footer.all("the footer of a stripe", FOOTER_MAX_BYTES)?;
        Ok(Self { bytes, place, footer, layout })
    }

    /// The streams of a column. Each begins where the one before it ends.
    fn streams(&self, column: u64) -> Result<Streams<'a>, OrcError> {
        let (mut streams, mut at, mut columns) = (Streams::default(), self.place.start, 0);
        for field in Fields(&self.footer) {
            match field? {
                (1, stream) => {
                    let (mut kind, mut of, mut length) = (0, 0, 0);
                    for field in Fields(stream.bytes()?) {
                        match field? {
                            (1, value) => kind = value.number()?,
                            (2, value) => of = value.number()?,
                            (3, value) => length = value.number()?,
                            _ => {}
                        }
                    }
                    let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
                    let end = end.filter(|end| *end <= self.place.footer);
                    let end = end.ok_or(OrcError::Malformed("a stream lies outside of its stripe"))?;
                    let bytes = &self.bytes[at..end];
                    at = end;
                    match kind {
                        _ if of != column => {}
                        0 => streams.present = Some(bytes),
                        1 => streams.data = bytes,
                        2 => streams.length = bytes,
                        3 => streams.dictionary = bytes,
                        _ => {}
                    }
                }
                (2, encoding) => {
                    if columns == column {
                        for field in Fields(encoding.bytes()?) {
                            match field? {
                                (1, value) => streams.encoding = value.number()?,
                                (2, value) => streams.dictionary_size = value.number()?,
                                _ => {}
                            }
                        }
                    }
                    columns += 1;
                }
                (4, _) => return Err(OrcError::Encrypted),
                _ => {}
            }
        }
        if columns <= column {
            return Err(OrcError::Malformed("a stripe does not say how a column is encoded"));
        }
        Ok(streams)
    }

    fn stream(&self, bytes: &'a [u8]) -> Stream<'a> {
        Stream::new(bytes, self.layout)
    }

    /// The streams of a column that has a value in each row.
    fn required(&self, column: u64) -> Result<Streams<'a>, OrcError> {
        let streams = self.streams(column)?;
        if let Some(present) = streams.present
            && !all_present(self.stream(present), self.place.rows)?
        {
            return Err(OrcError::Malformed("a row has no value where each must have one"));
        }
        Ok(streams)
    }

    /// The rows themselves are there, all of them.
    pub fn check_rows(&self) -> Result<(), OrcError> {
        self.required(0).map(drop)
    }

    /// A column of numbers.
    pub fn numbers(&self, column: u64) -> Result<Integers<'a>, OrcError> {
        let streams = self.required(column)?;
        let runs = match streams.encoding {
            0 => Runs::One,
            2 => Runs::Two,
            _ => return Err(OrcError::Malformed("a column of numbers is encoded as none can be")),
        };
        Ok(Integers::new(self.stream(streams.data), runs, true))
    }

    /// A column of strings.
    pub fn strings(&self, column: u64) -> Result<Strings<'a>, OrcError> {
        let streams = self.required(column)?;
        let runs = match streams.encoding {
            0 | 1 => Runs::One,
            2 | 3 => Runs::Two,
            _ => return Err(OrcError::Malformed("a column of strings is encoded as none can be")),
        };
        let lengths = Integers::new(self.stream(streams.length), runs, false);
        if streams.encoding % 2 == 0 {
            return Ok(Strings::direct(lengths, self.stream(streams.data)));
        }
        let indices = Integers::new(self.stream(streams.data), runs, false);
        Strings::dictionary(indices, lengths, self.stream(streams.dictionary), streams.dictionary_size)
    }
}
