//! Thrift's binary protocol, as much of it as one needs to ask a metastore: strict, and not framed.
//!
//! A reply has no length. [`Input`] reads one as it comes, at most so many bytes of it; nothing is allocated for what
//! has not come yet, and what nobody wants is passed over, however it is nested.
use tokio::io::{AsyncRead, AsyncReadExt};

pub(super) const STOP: u8 = 0;
pub(super) const STRING: u8 = 11;
pub(super) const STRUCT: u8 = 12;
pub(super) const MAP: u8 = 13;
pub(super) const LIST: u8 = 15;
pub(super) const I32: u8 = 8;

/// The first half of each message.
const VERSION: u32 = 0x8001_0000;
/// Kinds of messages.
pub(super) const CALL: u8 = 1;
pub(super) const REPLY: u8 = 2;
pub(super) const EXCEPTION: u8 = 3;

/// What nobody wants is nested no deeper.
const DEPTH_MAX: usize = 64;
/// Texts are read in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// Why a reply cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The connection.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is none.
    #[error("not a reply by Thrift's binary protocol: {0}")]
    Malformed(String),
    /// It is longer than it may be.
    #[error("reply has more than {0} bytes")]
    TooLarge(usize),
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Malformed(why.into()))
}

/// A reply as it comes.
#[derive(Debug)]
pub(super) struct Input<R> {
    source: R,
    limit: usize,
    left: usize,
}

/// What is open while something is passed over.
enum Open {
    Struct,
    /// So many of this kind are left.
    Elements(u8, usize),
    /// So many keys and values are left; what comes is a key if their number is even.
    Pairs(u8, u8, usize),
}

impl<R: AsyncRead + Unpin> Input<R> {
    /// At most `limit` bytes of `source`.
    pub fn new(source: R, limit: usize) -> Self {
        Self { source, limit, left: limit }
    }

    async fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.left = self.left.checked_sub(N).ok_or(Fault::TooLarge(self.limit))?;
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Passes over so many bytes.
    async fn pass(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::TooLarge(self.limit))?;
        let passed =
            tokio::io::copy(&mut (&mut self.source).take(bytes as u64), &mut tokio::io::sink()).await?;
        if passed == bytes as u64 { Ok(()) } else { Err(ended()) }
    }

    async fn byte(&mut self) -> Result<u8, Fault> {
        Ok(u8::from_be_bytes(self.take().await?))
    }

    pub async fn i32(&mut self) -> Result<i32, Fault> {
        Ok(i32::from_be_bytes(self.take().await?))
    }

    /// A number of bytes or elements, of which each takes a byte at least.
    async fn count(&mut self) -> Result<usize, Fault> {
        let count = self.i32().await?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left => Ok(count),
            Ok(_) => Err(Fault::TooLarge(self.limit)),
            Err(_) => malformed(format!("a length of {count}")),
        }
    }

    /// A text; what is not UTF-8 in it is replaced.
    pub async fn text(&mut self) -> Result<String, Fault> {
        let length = self.count().await?;
        self.left -= length;
        let mut bytes = Vec::with_capacity(length.min(PIECE_BYTES));
        (&mut self.source).take(length as u64).read_to_end(&mut bytes).await?;
        if bytes.len() != length {
            return Err(ended());
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// Kind and number of the next field of a struct, if there is one more.
    pub async fn field(&mut self) -> Result<Option<(u8, i16)>, Fault> {
        match self.byte().await? {
            STOP => Ok(None),
            kind => Ok(Some((kind, i16::from_be_bytes(self.take().await?)))),
        }
    }

    /// How many elements a list has, which must be of this kind.
    pub async fn list(&mut self, kind: u8) -> Result<usize, Fault> {
        let (found, count) = (self.byte().await?, self.count().await?);
        if found == kind || count == 0 { Ok(count) } else { malformed(format!("a list of kind {found}")) }
    }

    /// How many pairs a map of texts has.
    pub async fn texts_by_text(&mut self) -> Result<usize, Fault> {
        let (kinds, count) = ([self.byte().await?, self.byte().await?], self.count().await?);
        if kinds == [STRING; 2] || count == 0 {
            Ok(count)
        } else {
            malformed(format!("a map of kinds {kinds:?}"))
        }
    }

    /// Kind, name and number of the message that begins here.
    pub async fn message(&mut self) -> Result<(u8, String, i32), Fault> {
        let version = self.i32().await? as u32;
        if version & 0xffff_0000 != VERSION {
            return malformed(format!("it begins with {version:#010x}"));
        }
        Ok((version.to_be_bytes()[3], self.text().await?, self.i32().await?))
    }

    /// Passes over a value of this kind.
    pub async fn skip(&mut self, kind: u8) -> Result<(), Fault> {
        let mut open: Vec<Open> = Vec::new();
        let mut kind = kind;
        loop {
            match kind {
                2 | 3 => self.pass(1).await?,
                6 => self.pass(2).await?,
                I32 => self.pass(4).await?,
                4 | 10 => self.pass(8).await?,
                16 => self.pass(16).await?,
                STRING => {
                    let length = self.count().await?;
                    self.pass(length).await?;
                }
                STRUCT => open.push(Open::Struct),
                MAP => {
                    let (key, value) = (self.byte().await?, self.byte().await?);
                    open.push(Open::Pairs(key, value, self.count().await? * 2));
                }
                // A set is written like a list.
                14 | LIST => {
                    let kind = self.byte().await?;
                    open.push(Open::Elements(kind, self.count().await?));
                }
                kind => return malformed(format!("a value of kind {kind}")),
            }
            if open.len() > DEPTH_MAX {
                return malformed(format!("values are nested deeper than {DEPTH_MAX}"));
            }
            kind = loop {
                let next = match open.last_mut() {
                    None => return Ok(()),
                    Some(Open::Struct) => self.field().await?.map(|(kind, _)| kind),
                    Some(Open::Elements(_, 0) | Open::Pairs(_, _, 0)) => None,
                    Some(Open::Elements(kind, left)) => {
                        *left -= 1;
                        Some(*kind)
                    }
                    Some(Open::Pairs(key, value, left)) => {
                        *left -= 1;
                        Some(if *left % 2 == 1 { *key } else { *value })
                    }
                };
                match next {
                    Some(kind) => break kind,
                    None => drop(open.pop()),
                }
            };
        }
    }
}

fn ended() -> Fault {
    Fault::Io(std::io::ErrorKind::UnexpectedEof.into())
}

/// A message, written.
#[derive(Debug, Default)]
pub(super) struct Output(Vec<u8>);

impl Output {
    /// The head of a message; the fields of its struct follow.
    pub fn message(kind: u8, name: &str, sequence: i32) -> Self {
        let mut out = Self((VERSION | u32::from(kind)).to_be_bytes().to_vec());
        out.text(name).i32(sequence);
        out
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Of texts that are longer than any number says, nothing is written but a length that no one accepts.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.i32(i32::try_from(text.len()).unwrap_or(-1));
        self.0.extend(text.as_bytes());
        self
    }

    pub fn field(&mut self, kind: u8, number: i16) -> &mut Self {
        self.0.push(kind);
        self.0.extend(number.to_be_bytes());
        self
    }

    /// The head of a list of so many elements.
    pub fn list(&mut self, kind: u8, count: usize) -> &mut Self {
        self.0.push(kind);
        self.i32(i32::try_from(count).unwrap_or(-1))
    }

    pub fn texts(&mut self, texts: &[&str]) -> &mut Self {
        self.list(STRING, texts.len());
        for text in texts {
            self.text(text);
        }
        self
    }

    /// Kinds of what follows.
    #[cfg(test)]
    pub fn bytes_of(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    /// The end of a struct.
    pub fn stop(&mut self) -> &mut Self {
        self.0.push(STOP);
        self
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
