//! Reading of JSON into types that derive serde's `Deserialize`.
//!
//! For each struct, serde derives two readers: one of fields by name, in any order, and a small one of fields in the order of their
//! declaration. Most of a player's code for archives would be the first kind, once for each operator. This deserializer finds the fields
//! by name itself and gives them in order, so that only the small ones are compiled. It reads what `serde_json` reads, but no types with
//! aliases, which serde lists as if they were fields of their own; it ignores unknown fields even where a type denies them; and values may be
//! nested 64 deep instead of 128.

mod error;
mod parser;
mod raw;
mod value;

use serde::de::DeserializeOwned;

pub(crate) use self::error::Error;
pub(crate) use self::raw::Raw;
pub(crate) use self::value::Value;

/// Reads a value.
///
/// # Errors
/// Returns an error that says what is wrong with the JSON, or which field is missing or of another type.
pub(crate) fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    T::deserialize(Value::parse(text)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        number: f32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        list: Vec<i32>,
        pair: [u8; 2],
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        One(Option<Inner>),
        Named { text: String, flag: bool, optional: Option<i64>, wide: f64 },
    }

    /// Reads a text as `serde_json` does.
    fn alike(text: &str) -> Option<Kind> {
        let (own, other) = (from_str::<Kind>(text), serde_json::from_str::<Kind>(text));
        match (own, other) {
            (Ok(own), Ok(other)) => {
                assert_eq!(own, other, "{text}");
                Some(own)
            }
            (Err(_), Err(_)) => None,
            (own, other) => panic!("{text}: {own:?}, and serde_json {other:?}"),
        }
    }

    #[test]
    fn values_are_those_of_serde_json() {
        for text in [
            r#""plain""#,
            r#" { "plain" : null } "#,
            r#"{"one":null}"#,
            r#"{"one":{"number":0.1,"pair":[1,255]}}"#,
            r#"{"one":{"pair":[0,1],"unknown":[{}],"list":[-2147483648,3],"number":1e-40}}"#,
            r#"{"one":[1,[2],[3,4]]}"#,
            r#"{"named":{"text":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é","flag":true,"wide":1e300}}"#,
            r#"{"named":{"text":"","flag":false,"optional":-9223372036854775808,"wide":-0}}"#,
        ] {
            assert!(alike(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_serde_json_refuses_is_refused() {
        for text in [
            "",
            "nul",
            "{",
            "\"plain",
            "\"plain\" x",
            "\"other\"",
            "\"one\"",
            "\"named\"",
            "{}",
            "[]",
            "1",
            r#"{"plain":1}"#,
            r#"{"plain":null,"one":null}"#,
            r#"{"one":{"number":1}}"#,
            r#"{"one":{"number":1,"number":2,"pair":[1,2]}}"#,
            r#"{"one":{"number":1,"pair":[1]}}"#,
            r#"{"one":{"number":1,"pair":[1,2,3]}}"#,
            r#"{"one":{"number":1,"pair":[1,256]}}"#,
            r#"{"one":{"number":1,"pair":[1,-1]}}"#,
            r#"{"one":{"number":1e39,"pair":[1,2]}}"#,
            r#"{"one":{"number":01,"pair":[1,2]}}"#,
            r#"{"one":{"number":1.,"pair":[1,2]}}"#,
            r#"{"one":{"number":"1","pair":[1,2]}}"#,
            r#"{"one":{"number":null,"pair":[1,2]}}"#,
            r#"{"one":{"number":1,"pair":[1.5,2]}}"#,
            r#"{"one":{"number":1,"pair":[1,2],}}"#,
            r#"{"one":{"number":1,"pair":[1,2,]}}"#,
            r#"{"one":{"number":1 "pair":[1,2]}}"#,
            r#"{"named":{"text":"\ud83d","flag":true,"wide":1}}"#,
            r#"{"named":{"text":"\x","flag":true,"wide":1}}"#,
            r#"{"named":{"text":"\u12","flag":true,"wide":1}}"#,
            r#"{"named":{"text":1,"flag":true,"wide":1}}"#,
            "{\"named\":{\"text\":\"\u{1}\",\"flag\":true,\"wide\":1}}",
            r#"{"named":{"text":"","flag":1,"wide":1}}"#,
        ] {
            assert_eq!(alike(text), None, "{text}");
        }
        assert!(from_str::<Raw>(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |text: &str| from_str::<Kind>(text).expect_err(text).to_string();
        assert_eq!(error(r#"{"named":{"text":""}}"#), "missing field `flag`");
        assert_eq!(error(r#""none""#), "unknown variant \"none\"");
        assert_eq!(error(r#"{"one":{"number":true}}"#), "true is not expected, but f32");
        assert_eq!(error(r#"{"one":{"number":1,"pair":[-1]}}"#), "the number -1 is not expected, but u8");
        assert_eq!(error(r#"{"one":{"number":[]}}"#), "an array is not expected, but f32");
        assert_eq!(error(r#"{"one":{"number" 1}}"#), "JSON: expected `:` at byte 17");
    }

    #[test]
    fn maps_and_texts_are_read() {
        let map = from_str::<BTreeMap<String, Raw>>(r#" {"a\"": [1, {}] , "b":"c"} "#).expect("a map");
        assert_eq!(
            map.iter().map(|(name, raw)| (&name[..], raw.get())).collect::<Vec<_>>(),
            [("a\"", "[1, {}]"), ("b", "\"c\"")]
        );
        assert_eq!(serde_json::to_string(&map).expect("JSON"), r#"{"a\"":[1, {}],"b":"c"}"#);
        assert!(from_str::<BTreeMap<String, Raw>>("[]").is_err());
    }

    proptest! {
        #[test]
        fn floats_are_those_of_serde_json(bits: u32, more in "[0-9]{1,30}", exponent in -60i32..60) {
            let text = f32::from_bits(bits);
            for text in [format!("{text:e}"), format!("{text}"), format!("0.{more}e{exponent}")] {
                let (own, other) = (from_str::<f32>(&text).ok(), serde_json::from_str::<f32>(&text).ok());
                prop_assert_eq!(own.map(f32::to_bits), other.map(f32::to_bits), "{}", text);
                let (own, other) = (from_str::<f64>(&text).ok(), serde_json::from_str::<f64>(&text).ok());
                prop_assert_eq!(own.map(f64::to_bits), other.map(f64::to_bits), "{}", text);
            }
        }
    }
}
