//! The schedule of a program: its dispatches, and the memory that its values share.

mod alias;
mod arena;
pub(crate) mod fuse;
pub(crate) mod plan;
