//! Which dictionary a layer is compressed with, if the user wants that at all.
use super::*;
use crate::layer::dictionary::{Dictionary, sample};
use crate::remote::Condition;
use crate::state::dictionary::{dictionary_key, fetch};

/// So many small files are enough to make a dictionary of.
const SAMPLES_MIN: usize = 500;
/// No more are looked at.
const SAMPLES_MAX: usize = 4096;
/// What counts as small.
const SAMPLE_BYTES_MAX: u64 = 32 << 10;
/// The most that is kept in memory of them.
const SAMPLES_BYTES_MAX: usize = 16 << 20;
/// A layer with more content is its own dictionary: there it was measured to gain nothing, or to lose.
const LAYER_BYTES_MAX: u64 = 512 << 10;

impl Committer {
    /// The dictionary for the layer of a plan. That there is none is no reason to fail: the layer is then an
    /// ordinary one.
    pub(super) async fn dictionary(
        &self,
        head: Option<&Head>,
        plan: &Arc<Plan>,
        source: &Arc<dyn ContentSource>,
    ) -> Option<Dictionary> {
        if !self.options.dictionary {
            return None;
        }
        let known = self.dictionary.lock().clone();
        let dictionary = match (known, head.and_then(|head| head.dictionary.as_ref())) {
            (Some(known), _) => known,
            (None, Some(digest)) => match fetch(&*self.store, &digest.0).await {
                Ok(dictionary) => dictionary,
                Err(error) => {
                    tracing::warn!(%error, "the layer is compressed without a dictionary");
                    return None;
                }
            },
            (None, None) => self.make(plan, source).await?,
        };
        *self.dictionary.lock() = Some(dictionary.clone());
        let content: u64 = plan.puts().map(|(_, captured)| size(captured)).sum();
        (content <= LAYER_BYTES_MAX).then_some(dictionary)
    }

    /// The digest of the dictionary that later layers may be compressed with.
    pub(super) fn known_dictionary(&self) -> Option<Digest> {
        self.dictionary.lock().as_ref().map(|dictionary| Digest(dictionary.digest()))
    }

    /// Makes a dictionary of what the plan brings, if that is enough, and stores it.
    async fn make(&self, plan: &Arc<Plan>, source: &Arc<dyn ContentSource>) -> Option<Dictionary> {
        let small = |captured: &Captured| (1..=SAMPLE_BYTES_MAX).contains(&size(captured));
        let count = plan.puts().filter(|(_, captured)| small(captured)).count();
        if count < SAMPLES_MIN {
            return None;
        }
        let (plan, source) = (Arc::clone(plan), Arc::clone(source));
        let work = tokio::task::spawn_blocking(move || {
            let every = count.div_ceil(SAMPLES_MAX);
            let (mut samples, mut bytes) = (Vec::new(), 0);
            for (path, captured) in plan.puts().filter(|(_, captured)| small(captured)).step_by(every) {
                let Some(sample) = take(&*source, path, captured) else { continue };
                bytes += sample.len();
                samples.push(sample);
                if bytes > SAMPLES_BYTES_MAX {
                    break;
                }
            }
            Dictionary::train(&samples)
        });
        let dictionary = match work.await.ok()? {
            Ok(dictionary) => dictionary,
            Err(error) => {
                tracing::info!(%error, files = count, "no dictionary for these files");
                return None;
            }
        };
        let key = dictionary_key(&dictionary.digest());
        let bytes = bytes::Bytes::copy_from_slice(dictionary.bytes());
        match self.store.put(&key, bytes, Condition::IfAbsent).await {
            // The same bytes are there already.
            Ok(_) | Err(RemoteError::Precondition { .. }) => {
                tracing::info!(key, files = count, "made a compression dictionary");
                Some(dictionary)
            }
            Err(error) => {
                tracing::warn!(%error, key, "cannot store the compression dictionary");
                None
            }
        }
    }
}

/// How much content of its own it has.
fn size(captured: &Captured) -> u64 {
    match captured.kind {
        Kind::File { size, .. } if captured.has_content() => size,
        _ => 0,
    }
}

/// A file as it will stand in the layer; one that cannot be read is left out.
fn take(source: &dyn ContentSource, path: &RelPath, captured: &Captured) -> Option<Vec<u8>> {
    let content = source.open(path, captured).ok()?;
    let mut bytes = vec![0; size(captured) as usize];
    let mut done = 0;
    while done < bytes.len() {
        match content.read_at(&mut bytes[done..], done as u64).ok()? {
            0 => return None,
            n => done += n,
        }
    }
    sample(&captured.entry(path), &bytes).ok()
}
