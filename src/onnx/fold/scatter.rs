//! Elements of known tensors at known places.

use super::{Fold, Folded, one};
use crate::onnx::host::Host;
use crate::onnx::places;

impl Fold<'_> {
    pub(in crate::onnx) fn gather_nd(&mut self) -> Folded {
        let (x, indices) = (self.input(0)?, self.input(1)?);
        x.fixed()?;
        indices.fixed()?;
        let batch = usize::try_from(self.node.int("batch_dims", 0)?).map_err(|_| "its batch_dims are negative")?;
        let (places, dims) = places::blocks(&x.dims, &indices, batch, self.budget)?;
        one(self.picked(&x, dims, places.into_iter())?)
    }

    /// Known data with known updates; `None` if updates are added to the data or joined with them in another way.
    pub(in crate::onnx) fn scatter(
        &mut self,
        targets: fn(&mut Self, &Host, &Host) -> Result<Vec<usize>, String>,
    ) -> Folded {
        let (x, indices, updates) = (self.input(0)?, self.input(1)?, self.input(2)?);
        x.fixed()?;
        indices.fixed()?;
        updates.fixed()?;
        if self.node.string("reduction", "none")? != "none" {
            return Ok(None);
        }
        self.budget.take(x.data.len().saturating_add(updates.data.len()), size_of::<usize>() + x.data.size())?;
        let targets = targets(self, &x, &indices)?;
        if targets.len() != updates.data.len() {
            return Err(format!("{} updates for {} elements", updates.data.len(), targets.len()));
        }
        let from = places::updated(x.data.len(), &targets);
        let both = x.data.followed_by(&updates.data).ok_or("it joins tensors of different types")?;
        let both = Host { rows: None, dims: vec![both.len()], data: both, data_type: x.data_type, name: None };
        one(self.picked(&both, x.dims.clone(), from.into_iter())?)
    }

    pub(in crate::onnx) fn element_targets(&mut self, x: &Host, indices: &Host) -> Result<Vec<usize>, String> {
        places::elementwise(&x.dims, indices, self.node.int("axis", 0)?, self.budget)
    }

    pub(in crate::onnx) fn block_targets(&mut self, x: &Host, indices: &Host) -> Result<Vec<usize>, String> {
        Ok(places::blocks(&x.dims, indices, 0, self.budget)?.0)
    }
}
