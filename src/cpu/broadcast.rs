//! Shapes and operands that broadcast.

use crate::numerics::vectorized;

/// The broadcast shape by NumPy's rule, of shapes that inference has checked.
pub(super) fn broadcast_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let skip = long.len() - short.len();
    let pick = |(i, &l): (usize, &usize)| if i >= skip && l == 1 { short[i - skip] } else { l };
    long.iter().enumerate().map(pick).collect()
}

/// Returns the index, in a stack of shape `own`, of the element that broadcasts to element `at` of a stack of shape `stack`.
pub(super) fn position(mut at: usize, stack: &[usize], own: &[usize]) -> usize {
    let (mut position, mut stride) = (0, 1);
    for (axis, &len) in stack.iter().enumerate().rev() {
        let Some(own_axis) = (axis + own.len()).checked_sub(stack.len()) else { break };
        let index = at % len;
        at /= len;
        position += if own[own_axis] == 1 { 0 } else { index * stride };
        stride *= own[own_axis];
    }
    position
}

/// An operand that broadcasts to a value. Elements of the value, in row-major order: `run` of them have as many of the operand, the same ones
/// again `repeat` times, and so for each place of the axes before those.
pub(super) struct Operand<'r, T> {
    data: &'r [T],
    run: usize,
    repeat: usize,
    /// The axes before, of the value and of the operand.
    outer: Vec<usize>,
    own: Vec<usize>,
}

impl<'r, T: Copy> Operand<'r, T> {
    /// Takes the elements and the shape of an operand, and the shape of the value.
    pub(super) fn new(data: &'r [T], own_shape: &[usize], shape: &[usize]) -> Self {
        let lacking = shape.len() - own_shape.len();
        let own = |axis: usize| axis.checked_sub(lacking).map_or(1, |axis| own_shape[axis]);
        let (mut run, mut repeat, mut axis) = (1, 1, shape.len());
        while axis > 0 && own(axis - 1) == shape[axis - 1] {
            axis -= 1;
            run *= shape[axis];
        }
        while axis > 0 && own(axis - 1) == 1 {
            axis -= 1;
            repeat *= shape[axis];
        }
        Self { data, run, repeat, outer: shape[..axis].to_vec(), own: (0..axis).map(own).collect() }
    }

    /// Sets each element of `y`, from `first` on of the value, to `f` of it and the operand.
    pub(super) fn zip(&self, y: &mut [T], first: usize, f: impl Fn(T, T) -> T) {
        let Self { data, run, repeat, ref outer, ref own } = *self;
        vectorized(
            #[inline(always)]
            || {
                let (mut rest, mut at) = (y, first);
                let mut last = None;
                while !rest.is_empty() {
                    let group = at / (run * repeat);
                    let offset = match last {
                        Some((of, offset)) if of == group => offset,
                        _ => position(group, outer, own) * run,
                    };
                    last = Some((group, offset));
                    // One element of the operand may serve many of the value.
                    let (length, within) = if run == 1 { (repeat, at % repeat) } else { (run, at % run) };
                    let (y, left) = rest.split_at_mut((length - within).min(rest.len()));
                    at += y.len();
                    if run == 1 {
                        let b = data[offset];
                        for y in y {
                            *y = f(*y, b);
                        }
                    } else {
                        for (y, &b) in y.iter_mut().zip(&data[offset + within..]) {
                            *y = f(*y, b);
                        }
                    }
                    rest = left;
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each way of broadcasting, in parts that begin and end anywhere.
    #[test]
    fn operands_broadcast() {
        let shape = [2, 3, 4, 5];
        let value = |at: usize| (at * 7 % 31) as f32;
        for own in [
            &[2, 3, 4, 5][..],
            &[1],
            &[5],
            &[1, 5],
            &[4, 5],
            &[4, 1],
            &[3, 1, 5],
            &[3, 4, 1],
            &[2, 1, 1, 5],
            &[2, 1, 4, 5],
            &[2, 1, 4, 1],
            &[2, 3, 1, 1],
            &[2, 1, 1, 1],
            &[],
        ] {
            let length = own.iter().product::<usize>();
            let other: Vec<f32> = (0..length).map(value).collect();
            let operand = Operand::new(&other, own, &shape);
            for part in [1, 3, 5, 7, 20, 33, 120] {
                let mut y = vec![100.0; 120];
                for (at, y) in y.chunks_mut(part).enumerate() {
                    operand.zip(y, at * part, |a, b| a + b);
                }
                for (at, &y) in y.iter().enumerate() {
                    assert_eq!(y, 100.0 + value(position(at, &shape, own)), "{own:?} in parts of {part}, element {at}");
                }
            }
        }
    }
}
