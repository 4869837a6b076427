//! Images whose axes get given lengths.

use crate::ops::error::OpError;
use crate::ops::operands::{inner_axis, parameter, rank_error};
use crate::ops::window::ImageLayout;
use crate::values::{Dim, Shape};

/// Infers the shape of images whose axes get the lengths of `output`. `rank` and `what` are for errors.
pub(super) fn with_lengths(
    x: &Shape,
    output: &[usize],
    layout: ImageLayout,
    [rank, what]: [&'static str; 2],
) -> Result<Shape, OpError> {
    if !(1..=2).contains(&output.len()) || x.rank() != output.len() + 2 {
        return Err(rank_error("image", x, rank));
    }
    let mut dims = x.dims().to_vec();
    for (at, &length) in output.iter().enumerate() {
        let at = layout.first_axis() + at;
        let input = inner_axis(x, at)?;
        // Positions times lengths fit 64 bits.
        if length == 0 || input == 0 || input.max(length) > 1 << 24 {
            let value = format!("{length} of {input} elements");
            return Err(parameter(what, value, "must be 1 to 16777216, of at least 1 element"));
        }
        dims[at] = Dim::Fixed(length);
    }
    inner_axis(x, layout.channel_axis(x.rank()))?;
    Ok(Shape::from_dims(dims).expect("the batch stays in front"))
}
