//! One layer, read once from end to end and looked at twice.
use super::{Held, Seen, VerifyError, counts};
use crate::layer::tar::{Decoder, Dialect, padding};
use crate::layer::{Dictionary, LayerError, LayerIndex, LayerReader, Row};
use crate::remote::RemoteError;
use crate::state::dictionary::DictionaryError;
use crate::state::head::LayerRef;
use crate::state::restore::fetch::{Fetched, Source};
use crate::state::restore::{LayerSource, RestoreError};
use bytes::Bytes;
use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The most pieces, of up to 256 KiB each, by which the second look stays behind the first.
const BEHIND_MAX: usize = 16;

/// Looks at all of a layer; its tail was read before, where it has one. Waits: not for the runtime's
/// own threads.
pub(super) fn look(
    source: &Source,
    layer: &LayerRef,
    tail: Option<Result<Bytes, String>>,
) -> Result<Seen, VerifyError> {
    let place = LayerSource::of(layer);
    let dictionary = match source.dictionary(&place) {
        Ok(dictionary) => dictionary,
        Err(RestoreError::Dictionary { key, source: DictionaryError::Remote { source, .. } }) => {
            return Err(VerifyError::Remote { key, source });
        }
        // Without it the layer says nothing to anybody.
        Err(RestoreError::Dictionary { source, .. }) => return Ok(Seen::damaged(source.to_string())),
        Err(_) => return Err(VerifyError::Stopped),
    };
    let dictionary = dictionary.as_ref();
    let mut bytes = source.open(&place);
    let (known, mut wrong) = match &tail {
        Some(Ok(tail)) => (Some(tail), None),
        Some(Err(what)) => (None, Some(what.clone())),
        None => (None, None),
    };
    let (sender, pieces) = sync_channel(BEHIND_MAX);
    let (proof, read) = std::thread::scope(|scope| {
        let second = scope.spawn(move || {
            let pieces = Pieces { pieces, current: Vec::new(), at: 0 };
            compare(pieces, dictionary, layer, known)
        });
        let proof = prove(Tee { source: &mut bytes, sender: Some(sender) }, dictionary);
        (proof, second.join())
    });
    let read = read.map_err(|_| VerifyError::Stopped)?;
    let first = match (bytes.take_failure(), proof) {
        // The cause comes before what it led to.
        (Some(RestoreError::Mismatch { what, .. }), _) => Some(what),
        (Some(RestoreError::Remote { source: RemoteError::NotFound { .. }, .. }), _) => {
            return Ok(Seen::damaged(super::GONE));
        }
        (Some(RestoreError::Remote { key, source }), _) => return Err(VerifyError::Remote { key, source }),
        (Some(_), _) => return Err(VerifyError::Stopped),
        (None, proof) => proof.err().map(|e| e.to_string()),
    };
    let held = match (tail, read) {
        (Some(Ok(tail)), read) => {
            wrong = wrong.or(read.err());
            Held::Tail(tail)
        }
        (None, Ok(rows)) if first.is_none() => Held::Rows(rows),
        (_, read) => {
            wrong = wrong.or(read.err());
            Held::Unknown
        }
    };
    Ok(Seen { held, wrong: first.or(wrong) })
}

/// The first look: everything that a reader of a layer checks, and the digest of the object.
fn prove(mut bytes: Tee<'_>, dictionary: Option<&Dictionary>) -> Result<(), LayerError> {
    let mut reader = LayerReader::new(&mut bytes)?.with_dictionary(dictionary);
    while reader.next_entry()?.is_some() {}
    drop(reader);
    io::copy(&mut bytes, &mut io::sink()).map_err(|e| LayerError::io("end of object", e))?;
    Ok(())
}

/// The second look: each entry of the stream is what its row says and stands where its row says. Without
/// a tail the rows are made from the stream.
fn compare(
    bytes: Pieces,
    dictionary: Option<&Dictionary>,
    layer: &LayerRef,
    tail: Option<&Bytes>,
) -> Result<Vec<Row>, String> {
    let mut expected = match tail {
        Some(tail) => Some(LayerIndex::read(tail, layer.bytes).map_err(|e| e.to_string())?.1),
        None => None,
    };
    // A layer with a table that is damaged: its rows would be kept for nothing.
    let keep = layer.table.is_none();
    let (mut rows, mut entries) = (Vec::new(), 0);
    let raw_bytes = each_row(bytes, dictionary, |row| {
        entries += 1;
        match &mut expected {
            Some(expected) => agree(expected.next(), &row),
            None if keep => {
                rows.push(row);
                Ok(())
            }
            None => Ok(()),
        }
    });
    let raw_bytes = raw_bytes.map_err(|e| e.to_string())?;
    match expected.and_then(|mut expected| expected.next()) {
        Some(Ok(row)) => return Err(format!("contents name what is not in the stream: {}", row.entry.path)),
        Some(Err(e)) => return Err(e.to_string()),
        None => {}
    }
    counts(layer, entries, raw_bytes)?;
    Ok(rows)
}

fn agree(expected: Option<Result<Row, LayerError>>, row: &Row) -> Result<(), LayerError> {
    let path = &row.entry.path;
    let Some(expected) = expected.transpose()? else {
        return Err(LayerError::corrupt(format!("contents lack an entry: {path}")));
    };
    let differs = if expected.entry.path != *path {
        format!("a path, which is {}", expected.entry.path)
    } else if expected.entry.kind != row.entry.kind {
        "kind or size".to_owned()
    } else if expected.entry.meta != row.entry.meta {
        "attributes".to_owned()
    } else if expected.span() != row.span() {
        "its place".to_owned()
    } else {
        return Ok(());
    };
    Err(LayerError::corrupt(format!("contents and stream differ in {differs}: {path}")))
}

/// Calls for each entry of a layer; returns how long the tar stream is. The bytes are taken as they are:
/// that they are the right ones is the first look's business.
fn each_row(
    bytes: impl Read,
    dictionary: Option<&Dictionary>,
    mut row: impl FnMut(Row) -> Result<(), LayerError>,
) -> Result<u64, LayerError> {
    let known = dictionary.map_or(&[][..], Dictionary::bytes);
    let stream = zstd::Decoder::with_dictionary(BufReader::new(bytes), known)
        .map_err(|e| LayerError::io("cannot decompress", e))?;
    let mut stream = Counting { source: stream, at: 0 };
    let mut decoder = Decoder::new(Dialect::Layer);
    loop {
        let offset = stream.at;
        let Some(decoded) = decoder.next(&mut stream)? else { return Ok(stream.at) };
        let data = decoded.map.data_len();
        let data = data + padding(data) as u64;
        let skipped = io::copy(&mut (&mut stream).take(data), &mut io::sink());
        if skipped.map_err(|e| LayerError::from_stream("content of a file", e))? != data {
            return Err(LayerError::truncated(format!("content of a file: {}", decoded.entry.path)));
        }
        row(Row { entry: decoded.entry, offset, length: stream.at - offset })?;
    }
}

/// Hands what the first look reads to the second one.
struct Tee<'a> {
    source: &'a mut Fetched,
    sender: Option<SyncSender<Vec<u8>>>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        // The second look may have seen enough.
        if n > 0 && self.sender.as_ref().is_some_and(|sender| sender.send(buf[..n].to_vec()).is_err()) {
            self.sender = None;
        }
        Ok(n)
    }
}

/// The other end of a [`Tee`].
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            let Ok(next) = self.pieces.recv() else { return Ok(0) };
            (self.current, self.at) = (next, 0);
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Counts what is read.
struct Counting<R> {
    source: R,
    at: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        self.at += n as u64;
        Ok(n)
    }
}
