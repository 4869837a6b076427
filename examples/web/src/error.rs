//! Errors become JavaScript's, with their messages.

use wasm_bindgen::JsError;

pub(crate) type Result<T> = std::result::Result<T, JsError>;

/// Makes an error for JavaScript.
pub(crate) fn error(error: impl std::fmt::Display) -> JsError {
    JsError::new(&error.to_string())
}
