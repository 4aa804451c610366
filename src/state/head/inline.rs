//! [`Inline`]: a small layer within the document that lists it.
//!
//! A layer must be there before HEAD names it, which takes two requests, one after the other. A document that has the
//! bytes of the layer in it needs no object beside it: both can be sent at once, and the version stands as soon as HEAD
//! does. The bytes stay until it is known that the object is there.
use super::{Digest, Head, HeadError, LayerRef, layer_id};
use crate::remote::ObjectStore;
use base64_simd::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest layer that a document may hold.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// The bytes of a layer; in documents as base64, with padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Inline(pub Bytes);

impl std::fmt::Debug for Inline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inline").field(&self.0.len()).finish()
    }
}

impl Serialize for Inline {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode_to_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Inline {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.len() > INLINE_BYTES_MAX.div_ceil(3) * 4 {
            return Err(serde::de::Error::custom("a layer within HEAD is too long"));
        }
        let bytes = STANDARD.decode_to_vec(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

impl Head {
    /// The layers whose bytes it has.
    pub fn inlined(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        let layers = self.layers.iter().chain(&self.held);
        layers.filter_map(|layer| Some((layer.key.as_str(), &layer.inline.as_ref()?.0)))
    }

    /// Whoever reads these layers from `store` need not ask for them.
    pub fn hand_over(&self, store: &dyn ObjectStore) {
        for (key, bytes) in self.inlined() {
            store.hand(key, bytes);
        }
    }

    /// Leaves out the bytes of layers of which `is_there` says that they are objects.
    pub fn lighten(&mut self, is_there: impl Fn(&str) -> bool) {
        for layer in self.layers.iter_mut().chain(&mut self.held) {
            if layer.inline.is_some() && is_there(&layer.key) {
                layer.inline = None;
            }
        }
    }
}

impl LayerRef {
    /// What is inline is read in place of the object: it must be that, and nothing but a layer.
    pub(super) fn check_inline(&self) -> Result<(), HeadError> {
        let Some(Inline(bytes)) = &self.inline else { return Ok(()) };
        let fits = bytes.len() as u64 == self.bytes && bytes.len() <= INLINE_BYTES_MAX;
        if fits && layer_id(&self.key).is_some() && Digest(*blake3::hash(bytes).as_bytes()) == self.digest {
            return Ok(());
        }
        Err(HeadError::Invalid(format!("what stands there of layer {:?} is something else", self.key)))
    }
}
