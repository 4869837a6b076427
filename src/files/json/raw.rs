//! Values that are read later.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer, ser};
use serde_json::value::RawValue;

/// The name by which [`Raw`] asks for the text of a value.
pub(super) const RAW: &str = "enfold::json::Raw";

/// The JSON of a value that is read later. Only [`from_str`](super::from_str) reads it.
#[derive(Debug, Clone)]
pub(crate) struct Raw(Box<str>);

impl Raw {
    /// The JSON of a value.
    ///
    /// # Errors
    /// The value has no JSON.
    pub(crate) fn of(value: &impl Serialize) -> serde_json::Result<Self> {
        serde_json::to_string(value).map(|text| Self(text.into()))
    }

    pub(crate) fn get(&self) -> &str {
        &self.0
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.clone().into()).map_err(ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
                Ok(Raw(text.into()))
            }
        }

        deserializer.deserialize_newtype_struct(RAW, Text)
    }
}
