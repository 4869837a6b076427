//! What is wrong with JSON.

use std::fmt::{self, Display};

use serde::de;

use crate::values::Quoted;

/// What is wrong. The results of a reader, of which there are many, are small if it is elsewhere.
#[derive(Debug)]
pub(crate) struct Error(Box<Problem>);

#[derive(Debug)]
struct Problem {
    message: String,
    /// Whether there were too few values.
    is_length: bool,
}

impl Error {
    #[cold]
    pub(super) fn new(message: String) -> Self {
        Self(Box::new(Problem { message, is_length: false }))
    }

    /// Whether there were too few values.
    pub(super) fn is_length(&self) -> bool {
        self.0.is_length
    }

    /// The error of a part, which says nothing of the number of values of the whole.
    pub(super) fn of_part(mut self) -> Self {
        self.0.is_length = false;
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    #[cold]
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        invalid("type", unexpected, expected)
    }

    #[cold]
    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        invalid("value", unexpected, expected)
    }

    #[cold]
    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        let message = format!("invalid length {length}, expected {expected}");
        Self(Box::new(Problem { message, is_length: true }))
    }
}

/// As serde says it. That says more of a float, for which a player has no digits.
fn invalid(what: &str, unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Error {
    use de::Unexpected::{Bool, Float, Map, Option, Seq, Signed, Str, Unit, Unsigned};
    let unexpected = match unexpected {
        Bool(value) => format!("boolean `{value}`"),
        Unsigned(value) => format!("integer `{value}`"),
        Signed(value) => format!("integer `{value}`"),
        Float(_) => "a floating point number".to_owned(),
        Str(text) => format!("string {}", Quoted(text)),
        Seq => "sequence".to_owned(),
        Map => "map".to_owned(),
        Unit | Option => "null".to_owned(),
        _ => "another value".to_owned(),
    };
    Error::new(format!("invalid {what}: {unexpected}, expected {expected}"))
}
