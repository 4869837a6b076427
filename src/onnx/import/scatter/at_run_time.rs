//! Elements and blocks at places that are computed at run time: operators of the graph, which check each index when they run.

use crate::onnx::host::{Length, axis, show};
use crate::onnx::import::importer::Importer;
use crate::onnx::import::operator::{Call, Values, one};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Concat, GatherNd, ScatterNd, ScatterReduction};

const MERGED: &str = "its batch is merged with another axis";

impl Importer {
    /// Values of floats or integers, whose batch is the leading axis.
    fn elements_of(&mut self, value: &Value) -> Result<Run, String> {
        let run = self.run(value)?;
        match run.kind {
            _ if run.merged > 1 => Err(MERGED.to_owned()),
            Kind::Quantized { .. } => Err("it selects quantized values by indices of a run".to_owned()),
            _ => Ok(run),
        }
    }

    /// Indices that are computed at run time, or that a known value holds.
    fn ids_of(&mut self, value: &Value) -> Result<Run, String> {
        let ids = self.integer(value)?;
        if ids.merged > 1 { Err(MERGED.to_owned()) } else { Ok(ids) }
    }

    /// The same value with one more axis of length 1 at the end.
    fn with_last_axis(&mut self, name: &str, x: Run) -> Result<Run, String> {
        let mut lengths = self.logical(&Value::Run(x));
        lengths.push(Length::Known(1));
        self.reshaped(name, x, &lengths)
    }

    /// `GatherND` with indices of a run.
    pub(super) fn blocks_at_run_time(&mut self, call: &Call<'_>) -> Values {
        let (x, ids) = (self.elements_of(call.input(0)?)?, self.ids_of(call.input(1)?)?);
        let batch = call.node.int("batch_dims", 0)?;
        let batch_dims = usize::try_from(batch).map_err(|_| format!("its batch_dims are {batch}"))?;
        let id = self.draft.add(&call.name, GatherNd { batch_dims }, &[x.id, ids.id])?;
        one(Run { id, ..x })
    }

    /// The axis that indices are along. Data and indices have as many axes, of which those of the indices are not longer.
    fn along(&self, call: &Call<'_>, x: Run, ids: Run) -> Result<usize, String> {
        let [data, of_ids] = [x, ids].map(|run| self.logical(&Value::Run(run)));
        let at = axis(call.node.int("axis", 0)?, data.len())?;
        let fits = |(own, other): (&Length, &Length)| match (own, other) {
            (Length::Known(own), Length::Known(other)) => other <= own,
            (own, other) => own == other,
        };
        let mut others = data.iter().zip(&of_ids).enumerate().filter(|(axis, _)| *axis != at);
        if data.len() != of_ids.len() || !others.all(|(_, lengths)| fits(lengths)) {
            return Err(format!("indices of shape {} into data of shape {}", show(&of_ids), show(&data)));
        }
        self.inner_axis(x, at)
    }

    /// The range of each axis but `at` that the indices have, and what is left of the data behind it, with the axis.
    fn cut_to_ids(
        &mut self,
        call: &Call<'_>,
        mut x: Run,
        ids: Run,
        at: usize,
    ) -> Result<(Run, Vec<(usize, Run)>), String> {
        let mut behind = Vec::new();
        for axis in (0..self.draft.shape(x.id).rank()).filter(|axis| *axis != at) {
            let [length, of_ids] = [x, ids].map(|run| self.draft.shape(run.id).axis(axis));
            if let (Some(length), Some(of_ids)) = (length, of_ids)
                && of_ids < length
            {
                let name = |part: &str| call.part(&format!("{part}{axis}"));
                let rest = self.cut(&name("behind"), x.id, axis, of_ids, length - of_ids)?;
                behind.push((axis, Run { id: rest, ..x }));
                x.id = self.cut(&name("within"), x.id, axis, 0, of_ids)?;
            }
        }
        Ok((x, behind))
    }

    /// The permutation that moves an axis to the end, and the one that moves it back.
    fn to_end(&self, x: Run, at: usize) -> [Vec<usize>; 2] {
        let rank = self.draft.shape(x.id).rank();
        let [mut there, mut back] = [0, 1].map(|_| (0..rank).collect::<Vec<usize>>());
        there[at..].rotate_left(1);
        back[at..].rotate_right(1);
        [there, back]
    }

    /// `GatherElements` with indices of a run: with the axis at the end, all other axes are a batch.
    pub(super) fn elements_at_run_time(&mut self, call: &Call<'_>) -> Values {
        let (x, ids) = (self.elements_of(call.input(0)?)?, self.ids_of(call.input(1)?)?);
        let at = self.along(call, x, ids)?;
        let (x, _) = self.cut_to_ids(call, x, ids, at)?;
        let [there, back] = self.to_end(x, at);
        let x = self.transposed(&call.part("data"), x, &there)?;
        let ids = self.transposed(&call.part("indices"), ids, &there)?;
        let ids = self.with_last_axis(&call.part("coordinates"), ids)?;
        let name = if there == back { call.name.clone() } else { call.part("elements") };
        let id = self.draft.add(&name, GatherNd { batch_dims: there.len() - 1 }, &[x.id, ids.id])?;
        one(self.transposed(&call.name, Run { id, ..x }, &back)?)
    }

    /// How updates change elements.
    fn reduction(&self, call: &Call<'_>, x: Run) -> Result<ScatterReduction, String> {
        let reduction = match call.node.string("reduction", "none")? {
            "none" => ScatterReduction::Replace,
            "add" => ScatterReduction::Add,
            "mul" => ScatterReduction::Mul,
            "max" => ScatterReduction::Maximum,
            "min" => ScatterReduction::Minimum,
            other => return Err(format!("its reduction is {other}, which is not known")),
        };
        match x.kind {
            Kind::Float => Ok(reduction),
            _ if reduction == ScatterReduction::Replace => Ok(reduction),
            _ => Err(format!(
                "its reduction is {reduction}, which is supported for floats only where several updates may meet in one element"
            )),
        }
    }

    /// Data, indices and updates, which have the type of the data.
    fn updates(&mut self, call: &Call<'_>) -> Result<[Run; 3], String> {
        let (x, ids) = (self.elements_of(call.input(0)?)?, self.ids_of(call.input(1)?)?);
        let updates = self.elements_of(call.input(2)?)?;
        let is_int = |run: Run| matches!(run.kind, Kind::Int(_));
        if is_int(x) != is_int(updates) {
            return Err("its data and updates are of different types".to_owned());
        }
        Ok([x, ids, updates])
    }

    /// `ScatterND` with indices of a run, or with several updates of one element.
    pub(super) fn update_blocks(&mut self, call: &Call<'_>) -> Values {
        let [x, ids, updates] = self.updates(call)?;
        let scatter = ScatterNd { batch_dims: 0, reduction: self.reduction(call, x)? };
        let id = self.draft.add(&call.name, scatter, &[x.id, ids.id, updates.id])?;
        one(Run { id, ..x })
    }

    /// `ScatterElements` with indices of a run, or with several updates of one element: with the axis at the end, all other axes are a
    /// batch. Data beyond the indices stay as they are.
    pub(super) fn update_elements(&mut self, call: &Call<'_>) -> Values {
        let [x, ids, updates] = self.updates(call)?;
        let at = self.along(call, x, ids)?;
        let reduction = self.reduction(call, x)?;
        let (x, behind) = self.cut_to_ids(call, x, ids, at)?;
        let [there, back] = self.to_end(x, at);
        let x = self.transposed(&call.part("data"), x, &there)?;
        let ids = self.transposed(&call.part("indices"), ids, &there)?;
        let ids = self.with_last_axis(&call.part("coordinates"), ids)?;
        let updates = self.transposed(&call.part("updates"), updates, &there)?;
        let name = |is_last: bool, part: &str| if is_last { call.name.clone() } else { call.part(part) };
        let scatter = ScatterNd { batch_dims: there.len() - 1, reduction };
        let inputs = [x.id, ids.id, updates.id];
        let id = self.draft.add(&name(there == back && behind.is_empty(), "updated"), scatter, &inputs)?;
        let mut y = self.transposed(&name(behind.is_empty(), "moved"), Run { id, ..x }, &back)?;
        for (left, (axis, rest)) in behind.into_iter().enumerate().rev() {
            y.id = self.draft.add(&name(left == 0, &format!("with{axis}")), Concat { axis }, &[y.id, rest.id])?;
        }
        one(y)
    }

    /// `Gather` from data that are computed at run time, or from a table of integers, with indices of a run along `at`.
    pub(in crate::onnx::import) fn rows_at_run_time(
        &mut self,
        call: &Call<'_>,
        data: &Value,
        ids: Run,
        at: usize,
    ) -> Values {
        let x = self.elements_of(data)?;
        let of_ids = self.logical(&Value::Run(ids)).len();
        let rows = usize::from(self.draft.shape(x.id).is_batched());
        self.inner_axis(x, at)?;
        let ids = match (rows, self.draft.shape(ids.id).is_batched()) {
            _ if ids.merged > 1 => return Err(MERGED.to_owned()),
            (1, true) => return Err("each row of the batch takes elements of all rows of the batch".to_owned()),
            (1, false) => self.along_rows(&call.part("ids"), ids, of_ids)?,
            _ => ids,
        };
        let rank = self.draft.shape(x.id).rank();
        let mut perm: Vec<usize> = (0..rank).collect();
        perm[rows..=at].rotate_right(1);
        let front = self.transposed(&call.part("data"), x, &perm)?;
        let coordinates = self.with_last_axis(&call.part("coordinates"), ids)?;
        // Axes before `at`, those of the ids, and axes behind `at`.
        let before = rows + of_ids..at + of_ids;
        let perm: Vec<usize> =
            (0..rows).chain(before.clone()).chain(rows..rows + of_ids).chain(before.end..rank - 1 + of_ids).collect();
        let name = if before.is_empty() { call.name.clone() } else { call.part("rows") };
        let id = self.draft.add(&name, GatherNd { batch_dims: rows }, &[front.id, coordinates.id])?;
        one(self.transposed(&call.name, Run { id, ..x }, &perm)?)
    }
}
