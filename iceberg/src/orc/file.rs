//! [`OrcFile`]: what the end of a file says of the rest (specification: File Tail, Postscript, Footer).
use super::OrcError;
use super::codec::Codec;
use super::message::Fields;
use super::stream::{CHUNK_MAX_BYTES, Layout, Stream};
use super::stripe::{Place, Stripe};

const MAGIC: &[u8] = b"ORC";
/// The longest footer, unpacked.
const FOOTER_MAX_BYTES: usize = 8 << 20;
/// The most stripes. Writers end one after 64 MiB.
const STRIPES_MAX: usize = 1 << 16;
/// The most columns, nested ones too.
const TYPES_MAX: usize = 1 << 16;
/// The attribute of a type that has the id of Iceberg's field.
const ID: &[u8] = b"iceberg.id";
/// The version of the format that files have; 0.11 is the one before it, with simpler runs.
const VERSION: [u64; 2] = [0, 12];

const STRUCT: u64 = 12;

/// What a column holds, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Numbers of 32 or 64 bits.
    Number,
    String,
    Other,
}

/// A column of a file, found by [`OrcFile::column`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    number: u64,
    kind: Kind,
}

/// A column as the footer tells of it.
#[derive(Debug)]
struct Named {
    name: Vec<u8>,
    /// The id of Iceberg's field, as written.
    id: Option<Vec<u8>>,
    column: Column,
}

/// A file: its end understood, its stripes not yet looked at.
#[derive(Debug)]
pub(crate) struct OrcFile<'a> {
    bytes: &'a [u8],
    layout: Layout,
    stripes: Vec<Place>,
    rows: u64,
    columns: Vec<Named>,
}

impl<'a> OrcFile<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OrcError> {
        if !bytes.starts_with(MAGIC) {
            return Err(OrcError::Foreign("it does not begin with ORC"));
        }
        let cut = || OrcError::Foreign("it does not end in a postscript");
        let (length, rest) = bytes[MAGIC.len()..].split_last().ok_or_else(cut)?;
        let start = rest.len().checked_sub(usize::from(*length)).ok_or_else(cut)?;
        let (rest, postscript) = rest.split_at(start);
        let (footer_length, layout) = read_postscript(postscript)?;
        let start = usize::try_from(footer_length).ok().and_then(|length| rest.len().checked_sub(length));
        let start = start.ok_or(OrcError::Malformed("its footer is longer than it"))?;
        let footer = Stream::new(&rest[start..], layout).all("its footer", FOOTER_MAX_BYTES)?;
        let (mut stripes, mut types, mut rows) = (Vec::new(), Vec::new(), 0);
        for field in Fields(&footer) {
            match field? {
                (3, stripe) if stripes.len() < STRIPES_MAX => stripes.push(stripe.bytes()?),
                (4, kind) if types.len() < TYPES_MAX => types.push(kind.bytes()?),
                (3 | 4, _) => return Err(OrcError::Malformed("it has too many stripes or columns")),
                (6, number) => rows = number.number()?,
                (10, _) => return Err(OrcError::Encrypted),
                _ => {}
            }
        }
        let stripes = read_stripes(&stripes, MAGIC.len() + start, rows)?;
        Ok(Self { bytes, layout, stripes, rows, columns: read_types(&types)? })
    }

    /// How many rows it says that it has; it has as many, or reading ends in an error.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The column that has this id of Iceberg's; where columns have none, the one of this name.
    pub fn column(&self, id: i32, name: &str) -> Option<Column> {
        let id = id.to_string();
        let by_id = |named: &&Named| named.id.as_deref() == Some(id.as_bytes());
        let by_name = |named: &&Named| named.id.is_none() && named.name == name.as_bytes();
        let mut columns = self.columns.iter();
        columns.clone().find(by_id).or_else(|| columns.find(by_name)).map(|named| named.column)
    }

    /// Tells `each` what stands in two columns, strings and numbers, row by row.
    pub fn pairs<E: From<OrcError>>(
        &self,
        strings: Column,
        numbers: Column,
        mut each: impl FnMut(&[u8], i64) -> Result<(), E>,
    ) -> Result<(), E> {
        if (strings.kind, numbers.kind) != (Kind::String, Kind::Number) {
            return Err(OrcError::Malformed("a column has not the type that belongs there").into());
        }
        for place in self.stripes.iter().filter(|place| place.rows > 0) {
            let stripe = Stripe::read(self.bytes, *place, self.layout)?;
            stripe.check_rows()?;
            let (mut strings, mut numbers) =
                (stripe.strings(strings.number)?, stripe.numbers(numbers.number)?);
            for _ in 0..place.rows {
                each(strings.next()?, numbers.next()?)?;
            }
        }
        Ok(())
    }
}

/// The length of the footer, and how streams are laid out.
fn read_postscript(bytes: &[u8]) -> Result<(u64, Layout), OrcError> {
    if !bytes.ends_with(MAGIC) {
        return Err(OrcError::Foreign("it does not end in a postscript"));
    }
    let (mut footer, mut codec, mut chunk) = (0, 0, CHUNK_MAX_BYTES as u64);
    let mut version = Vec::new();
    for field in Fields(bytes) {
        let (number, value) = field?;
        match number {
            1 => footer = value.number()?,
            2 => codec = value.number()?,
            3 => chunk = value.number()?,
            4 => value.numbers(&mut version)?,
            _ => {}
        }
    }
    if version.first().is_some_and(|major| *major > VERSION[0]) {
        let numbers: Vec<String> = version.iter().map(u64::to_string).collect();
        return Err(OrcError::Unknown(format!("version {} of ORC", numbers.join("."))));
    }
    let codec = Codec::by_number(codec)?;
    let chunk = usize::try_from(chunk).ok().filter(|chunk| *chunk <= CHUNK_MAX_BYTES);
    let chunk = chunk.ok_or(OrcError::TooLarge { what: "a chunk", limit: CHUNK_MAX_BYTES })?;
    Ok((footer, Layout { codec, chunk }))
}

/// Where stripes lie: between the first bytes and `end`, in order and apart.
fn read_stripes(stripes: &[&[u8]], end: usize, rows: u64) -> Result<Vec<Place>, OrcError> {
    let (mut places, mut after, mut left) = (Vec::with_capacity(stripes.len()), MAGIC.len(), rows);
    for stripe in stripes {
        let [mut offset, mut index, mut data, mut footer, mut rows] = [0; 5];
        for field in Fields(stripe) {
            match field? {
                (1, value) => offset = value.number()?,
                (2, value) => index = value.number()?,
                (3, value) => data = value.number()?,
                (4, value) => footer = value.number()?,
                (5, value) => rows = value.number()?,
                (6 | 7, _) => return Err(OrcError::Encrypted),
                _ => {}
            }
        }
        let place = || {
            let start = usize::try_from(offset).ok().filter(|start| *start >= after)?;
            let content = usize::try_from(index.checked_add(data)?).ok()?;
            let at = start.checked_add(content)?;
            let last = at.checked_add(usize::try_from(footer).ok()?).filter(|last| *last <= end)?;
            Some(Place { start, footer: at, end: last, rows })
        };
        let place = place().ok_or(OrcError::Malformed("a stripe lies outside of it, or in another one"))?;
        left = left.checked_sub(rows).ok_or(OrcError::Malformed("its stripes have more rows than it"))?;
        after = place.end;
        places.push(place);
    }
    if left > 0 { Err(OrcError::Malformed("its stripes have fewer rows than it")) } else { Ok(places) }
}

/// The columns of the rows, without those that are nested in them.
fn read_types(types: &[&[u8]]) -> Result<Vec<Named>, OrcError> {
    const NONE: OrcError = OrcError::Malformed("its rows have no columns");
    let (mut kind, mut subtypes, mut names) = (0, Vec::new(), Vec::new());
    for field in Fields(types.first().ok_or(NONE)?) {
        match field? {
            (1, value) => kind = value.number()?,
            (2, value) => value.numbers(&mut subtypes)?,
            (3, value) => names.push(value.bytes()?),
            _ => {}
        }
    }
    // Types are numbered from the outside in and from left to right, so each is looked at once.
    if kind != STRUCT || subtypes.len() != names.len() || !subtypes.is_sorted_by(|one, next| one < next) {
        return Err(NONE);
    }
    let named = subtypes.into_iter().zip(names).map(|(number, name)| {
        let bytes = usize::try_from(number).ok().and_then(|number| types.get(number));
        let bytes = bytes.ok_or(OrcError::Malformed("a column has no type"))?;
        let (kind, id) = read_type(bytes)?;
        Ok(Named { name: name.to_vec(), id, column: Column { number, kind } })
    });
    named.collect()
}

/// What a column holds, and the id of Iceberg's field.
fn read_type(bytes: &[u8]) -> Result<(Kind, Option<Vec<u8>>), OrcError> {
    let (mut kind, mut id) = (Kind::Other, None);
    for field in Fields(bytes) {
        match field? {
            (1, value) => {
                kind = match value.number()? {
                    3 | 4 => Kind::Number,
                    7 => Kind::String,
                    _ => Kind::Other,
                }
            }
            (7, pair) => {
                let (mut key, mut text) = (&[][..], &[][..]);
                for field in Fields(pair.bytes()?) {
                    match field? {
                        (1, value) => key = value.bytes()?,
                        (2, value) => text = value.bytes()?,
                        _ => {}
                    }
                }
                if key == ID {
                    id = Some(text.to_vec());
                }
            }
            _ => {}
        }
    }
    Ok((kind, id))
}
