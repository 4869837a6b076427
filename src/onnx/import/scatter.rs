//! Elements of a value that is computed at run time: read by `GatherElements` and `GatherND`, written by `ScatterElements` and `ScatterND`.
//! At known places, they are selected elements; at others, see `at_run_time`.

mod at_run_time;

use super::importer::Importer;
use super::operator::{Call, Operator, Values, one};
use crate::onnx::attributes::int_attribute;
use crate::onnx::fold::Fold;
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::integers::range;
use crate::onnx::places;
use crate::onnx::proto::data_type as ty;
use crate::onnx::value::{Kind, Run, Value};

operators! {
    "GatherElements" => Operator::new(|f| f.gather_elements(), Importer::gather_elements),
    "GatherND" => Operator::new(|f| f.gather_nd(), Importer::gather_blocks),
    "Scatter" | "ScatterElements" =>
        Operator::new(|f| f.scatter(Fold::element_targets), Importer::scatter_elements),
    "ScatterND" => Operator::new(|f| f.scatter(Fold::block_targets), Importer::scatter_blocks),
}

/// Indices for one row, and whether there are rows.
fn of_row(indices: &Host, batched: bool) -> Result<Host, String> {
    match (batched, indices.rows) {
        (false, None) => Ok(indices.clone()),
        (true, Some(1)) => Ok(Host { rows: None, dims: indices.dims[1..].to_vec(), ..indices.clone() }),
        (true, None) => Err("its indices are not along the batch, of which each row has its own".to_owned()),
        _ => Err("its indices have a batch that its data lack".to_owned()),
    }
}

fn lengths(dims: &[usize]) -> impl Iterator<Item = Length> + '_ {
    dims.iter().map(|&d| Length::Known(d as i64))
}

impl Importer {
    /// The lengths of a value without the batch, and whether it has one.
    fn row(&self, value: &Value) -> Result<(Vec<usize>, bool), String> {
        let shape = self.logical(value);
        let batched = match shape.first() {
            Some(Length::Rows(1)) => true,
            Some(Length::Rows(_)) => return Err("its batch is merged with another axis".to_owned()),
            _ => false,
        };
        let known = |length: &Length| match length {
            Length::Known(n) => usize::try_from(*n).ok().filter(|n| *n > 0),
            Length::Rows(_) => None,
        };
        let dims = shape[usize::from(batched)..].iter().map(known).collect::<Option<Vec<_>>>();
        Ok((dims.ok_or_else(|| format!("its data have shape {}", show(&shape)))?, batched))
    }

    /// All elements of a row along one axis.
    fn flat(&mut self, call: &Call<'_>, part: &str, x: Run, count: usize, batched: bool) -> Result<Run, String> {
        let rows = batched.then_some(Length::Rows(1));
        let target: Vec<Length> = rows.into_iter().chain([Length::Known(count as i64)]).collect();
        self.reshaped(&call.part(part), x, &target)
    }

    /// The elements at `places` of a flat value, in a shape.
    fn picked(&mut self, call: &Call<'_>, flat: Run, places: Vec<usize>, dims: &[usize], batched: bool) -> Values {
        if places.is_empty() {
            return Err("it takes no elements".to_owned());
        }
        let id = self.at_places(call, &call.part("selected"), flat, usize::from(batched), places)?;
        let rows = batched.then_some(Length::Rows(1));
        let target: Vec<Length> = rows.into_iter().chain(lengths(dims)).collect();
        one(self.reshaped(&call.name, Run { id, ..flat }, &target)?)
    }

    fn gather_elements(&mut self, call: &Call<'_>) -> Values {
        if let Value::Run(_) = call.input(1)? {
            return self.elements_at_run_time(call);
        }
        let (dims, batched) = self.row(call.input(0)?)?;
        let indices = of_row(&*self.host(call.input(1)?)?, batched)?;
        let axis = self.axis_of_row(call, dims.len(), batched)?;
        let places = places::elementwise(&dims, &indices, axis, &mut self.budget)?;
        let x = self.run(call.input(0)?)?;
        let flat = self.flat(call, "flat", x, dims.iter().product(), batched)?;
        self.picked(call, flat, places, &indices.dims, batched)
    }

    fn gather_blocks(&mut self, call: &Call<'_>) -> Values {
        if let Value::Run(_) = call.input(1)? {
            return self.blocks_at_run_time(call);
        }
        let (dims, batched) = self.row(call.input(0)?)?;
        let batch = call.node.int("batch_dims", 0)?;
        let indices = self.host(call.input(1)?)?;
        if batched && batch < 1 {
            return Err("it works along the batch".to_owned());
        }
        let indices = of_row(&indices, batched)?;
        let batch = usize::try_from(batch).map_err(|_| format!("its batch_dims are {batch}"))? - usize::from(batched);
        let (places, to) = places::blocks(&dims, &indices, batch, &mut self.budget)?;
        let x = self.run(call.input(0)?)?;
        let flat = self.flat(call, "flat", x, dims.iter().product(), batched)?;
        self.picked(call, flat, places, &to, batched)
    }

    /// The attribute `axis`, as an axis of a row.
    fn axis_of_row(&self, call: &Call<'_>, rank: usize, batched: bool) -> Result<i64, String> {
        let all = rank + usize::from(batched);
        let axis = crate::onnx::host::axis(call.node.int("axis", 0)?, all)?;
        match axis.checked_sub(usize::from(batched)) {
            Some(axis) => Ok(axis as i64),
            None => Err("it works along the batch".to_owned()),
        }
    }

    fn scatter_elements(&mut self, call: &Call<'_>) -> Values {
        if let Value::Run(_) = call.input(1)? {
            return self.update_elements(call);
        }
        let (dims, batched) = self.row(call.input(0)?)?;
        let indices = of_row(&*self.host(call.input(1)?)?, batched)?;
        let axis = self.axis_of_row(call, dims.len(), batched)?;
        let targets = places::elementwise(&dims, &indices, axis, &mut self.budget)?;
        if self.are_joined(call)? && places::meet(&targets) {
            return self.update_elements(call);
        }
        self.scattered(call, &dims, batched, &targets)
    }

    /// Whether updates are joined with the elements that they meet.
    fn are_joined(&self, call: &Call<'_>) -> Result<bool, String> {
        Ok(call.node.string("reduction", "none")? != "none")
    }

    fn scatter_blocks(&mut self, call: &Call<'_>) -> Values {
        if let Value::Run(_) = call.input(1)? {
            return self.update_blocks(call);
        }
        let (dims, batched) = self.row(call.input(0)?)?;
        if batched {
            return Err("it works along the batch".to_owned());
        }
        let indices = of_row(&*self.host(call.input(1)?)?, false)?;
        let (targets, _) = places::blocks(&dims, &indices, 0, &mut self.budget)?;
        if self.are_joined(call)? && places::meet(&targets) {
            return self.update_blocks(call);
        }
        self.scattered(call, &dims, false, &targets)
    }

    /// Data in which `targets` are replaced by updates, or joined with them.
    fn scattered(&mut self, call: &Call<'_>, dims: &[usize], batched: bool, targets: &[usize]) -> Values {
        let (data, updates) = (call.input(0)?, call.input(2)?);
        let (of_updates, rows) = self.row(updates)?;
        let count: usize = dims.iter().product();
        if of_updates.iter().product::<usize>() != targets.len() || rows != batched {
            let shape = show(&self.logical(updates));
            return Err(format!("its updates have shape {shape}, and its indices name {} elements", targets.len()));
        }
        let reduction = call.node.string("reduction", "none")?;
        let (op_type, neutral) = match reduction {
            "none" => (None, 0.0),
            "add" => (Some("Add"), 0.0),
            "mul" => (Some("Mul"), 1.0),
            "max" => (Some("Max"), f32::NEG_INFINITY),
            "min" => (Some("Min"), f32::INFINITY),
            other => return Err(format!("its reduction is {other}, which is not known")),
        };
        self.budget.take(count.saturating_add(targets.len()), 2 * size_of::<usize>())?;
        let of = self.type_of(data);
        if self.type_of(updates) != of {
            return Err("its data and updates are of different types".to_owned());
        }
        // Elements without an update are those of the data, or change nothing.
        let base = match op_type {
            None => data.clone(),
            Some(op) => {
                let one = match of {
                    ty::FLOAT => Host::new(vec![1], Data::F32(vec![neutral])),
                    of => {
                        let (low, high) = range(of);
                        let (low, high) = (low.max(i32::MIN.into()) as i64, high.min(i32::MAX.into()) as i64);
                        let neutral = match op {
                            "Max" => low,
                            "Min" => high,
                            _ => neutral as i64,
                        };
                        Host::new(vec![1], Data::I64(vec![neutral])).typed(of)
                    }
                };
                let shape = self.logical(data);
                let shape = Value::Host(Host::vector(shape).into());
                self.emitted(call, "base", "Expand", &[&Value::Host(one.into()), &shape], &[])?
            }
        };
        let flat_base = self.flat_value(call, "base.flat", &base, count, batched)?;
        let flat_updates = self.flat_value(call, "updates.flat", updates, targets.len(), batched)?;
        let axis = int_attribute("axis", i64::from(batched));
        let both = self.emitted(call, "both", "Concat", &[&flat_base, &flat_updates], &[axis])?;
        let both = self.run(&both)?;
        let from = places::updated(count, targets);
        let scattered = self.picked(call, both, from, dims, batched)?;
        match (op_type, scattered.first()) {
            (Some(op), Some(scattered)) => {
                let scattered = scattered.clone();
                self.result(call, op, &[data, &scattered], &[])
            }
            _ => Ok(scattered),
        }
    }

    fn flat_value(
        &mut self,
        call: &Call<'_>,
        part: &str,
        value: &Value,
        count: usize,
        batched: bool,
    ) -> Result<Value, String> {
        let run = self.run(value)?;
        let run = if let Kind::Bool = run.kind { Run { kind: Kind::Float, ..run } } else { run };
        Ok(Value::Run(self.flat(call, part, run, count, batched)?))
    }
}
