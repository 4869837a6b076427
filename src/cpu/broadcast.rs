//! Shapes that broadcast.

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
