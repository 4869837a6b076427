//! Gradients of embeddings.

use super::Rule;
use crate::ops::Op;
use crate::values::slices::i32s;

/// Each row of the table gets the sum of the gradients of its uses; ids have none.
pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    let Op::Embedding(embedding) = op else { return None };
    Some(Box::new(|b, dx| {
        let (rows, columns) = (b.x().shape()[0], b.x().shape()[1].max(1));
        dx.fill(0.0);
        for (&id, dy) in i32s(b.inputs[0]).iter().zip(b.dy.chunks_exact(columns)) {
            // The forward pass has refused ids that the table lacks.
            let row = embedding.row(id, rows).unwrap_or(0);
            let row = &mut dx[row * columns..][..columns];
            row.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
    }))
}
