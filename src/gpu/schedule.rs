//! The schedule of a program: its dispatches, and the memory that its values share.

mod arena;
mod fuse;
pub(crate) mod plan;
