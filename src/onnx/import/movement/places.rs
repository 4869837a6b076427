//! Elements at known places along an axis.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use super::MAX_PIECES;
use crate::graph::{Node, NodeId};
use crate::onnx::host::{self, Host, Length};
use crate::onnx::slices;
use crate::onnx::value::{Kind, Run};

impl Importer {
    /// A `Gather` at known indices.
    pub(in crate::onnx::import) fn places(&mut self, call: &Call<'_>, indices: &Host) -> Values {
        indices.fixed()?;
        let x = self.run(call.input(0)?)?;
        let lengths = self.logical(call.input(0)?);
        let at = host::axis(call.node.int("axis", 0)?, lengths.len())?;
        let mut target = lengths[..at].to_vec();
        target.extend(indices.dims.iter().map(|&d| Length::Known(d as i64)));
        target.extend(&lengths[at + 1..]);
        let axis = self.inner_axis(x, at)?;
        let length = self.axis_length(x, axis)?;
        let places = slices::indices(&indices.integers()?, length)?;
        if places.is_empty() {
            return Err("it takes no elements".to_owned());
        }
        let name = if indices.dims.len() == 1 { call.name.clone() } else { call.part("selected") };
        let id = self.at_places(call, &name, x, axis, places)?;
        one(self.reshaped(&call.name, Run { id, ..x }, &target)?)
    }

    /// Elements at places along an axis of a node. Integers are cut into ranges and joined, since engines select floats and quantized
    /// values only.
    pub(in crate::onnx::import) fn at_places(
        &mut self,
        call: &Call<'_>,
        name: &str,
        x: Run,
        axis: usize,
        places: Vec<usize>,
    ) -> Result<NodeId, String> {
        if !matches!(x.kind, Kind::Int(_)) {
            self.budget.take(places.len(), size_of::<u32>())?;
            let narrow = |place: usize| u32::try_from(place).map_err(|_| format!("its index {place} exceeds 32 bits"));
            let places = places.into_iter().map(narrow).collect::<Result<_, _>>()?;
            return self.selected(name, x.id, axis, places);
        }
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for place in places {
            match ranges.last_mut() {
                Some((start, length)) if *start + *length == place => *length += 1,
                _ => ranges.push((place, 1)),
            }
        }
        if ranges.len() > MAX_PIECES {
            return Err(format!("its indices are {} ranges, supported are {MAX_PIECES}", ranges.len()));
        }
        self.budget.take(ranges.len(), size_of::<Node>())?;
        let mut pieces = Vec::with_capacity(ranges.len());
        for (start, length) in ranges {
            pieces.push(self.cut(&call.part("part"), x.id, axis, start, length)?);
        }
        self.joined(&call.part("parts"), &pieces, axis)
    }
}
