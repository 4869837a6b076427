//! `LSTM`, `GRU` and `RNN`, unrolled over a sequence whose length is known.
//!
//! The products of all steps of the input are one linear layer. Those of the state are one linear layer for each step, two for a `GRU` that
//! resets the state before its product. Values are `[batch, steps, features]`, and the state is one step of that.

mod quantized;

use std::ops::Range;

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::graph::NodeId;
use crate::onnx::functions;
use crate::onnx::host::{Host, Length, show};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Add, Linear, Mul, Reshape, UnaryOp};
use crate::values::Tensor;

operators! {
    "GRU" => Operator::nodes(|i, c| i.recurrent(c, Cell::Gru)).behind(|i, c, _| i.recurrent(c, Cell::Gru)),
    "LSTM" => Operator::nodes(|i, c| i.recurrent(c, Cell::Lstm)).behind(|i, c, _| i.recurrent(c, Cell::Lstm)),
    "RNN" => Operator::nodes(|i, c| i.recurrent(c, Cell::Rnn)).behind(|i, c, _| i.recurrent(c, Cell::Rnn)),
}

/// The most steps that a layer is unrolled to, those of both directions together. A step is up to twenty nodes.
const MAX_STEPS: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Gru,
    Lstm,
    Rnn,
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// The functions of one direction, without an attribute.
    fn functions(self) -> &'static [UnaryOp] {
        match self {
            Self::Rnn => &[UnaryOp::Tanh],
            Self::Gru => &[UnaryOp::Sigmoid, UnaryOp::Tanh],
            Self::Lstm => &[UnaryOp::Sigmoid, UnaryOp::Tanh, UnaryOp::Tanh],
        }
    }

    /// The position of the peepholes among the inputs, and of the initial state of the cell.
    fn cell_inputs(self) -> Option<(usize, usize)> {
        (self == Self::Lstm).then_some((7, 6))
    }
}

/// The parameters of one direction.
struct Direction {
    name: &'static str,
    functions: Vec<UnaryOp>,
    hidden: usize,
    /// The products of all steps of the input, `[batch, steps, gates · hidden]`.
    input: NodeId,
    /// The weights of the state.
    state: NodeId,
    /// The weights of the candidate of a GRU that resets the state before the product; `state` has those of its gates.
    candidate: Option<NodeId>,
    /// The bias of the candidate's product with the state, for a GRU that resets behind the product.
    reset_bias: Option<NodeId>,
    /// `reset_bias` as part of the bias of all gates.
    state_bias: Option<NodeId>,
    resets_behind: bool,
}

impl Importer {
    fn recurrent(&mut self, call: &Call<'_>, cell: Cell) -> Values {
        let directions: &[(&str, bool)] = match call.node.string("direction", "forward")? {
            "forward" => &[("forward", false)],
            "reverse" => &[("reverse", true)],
            "bidirectional" => &[("forward", false), ("reverse", true)],
            other => {
                return Err(format!("its direction is {other:?}; supported are forward, reverse and bidirectional"));
            }
        };
        let functions = Self::functions_of(call, cell, directions.len())?;
        let batch_axis = usize::from(call.node.int("layout", 0)? == 0);
        let x = self.with_axis_in_front(call, "X", call.input(0)?, batch_axis)?;
        let lengths = self.logical(&x);
        let &[batch, Length::Known(steps), Length::Known(_)] = lengths.as_slice() else {
            return Err(format!("its X has shape {} with the batch in front, expected 3 axes", show(&lengths)));
        };
        let count = usize::try_from(steps).unwrap_or(0);
        if !(1..=MAX_STEPS / directions.len()).contains(&count) {
            return Err(format!(
                "its sequence has {steps} steps; supported are from 1 to {} for {} directions",
                MAX_STEPS / directions.len(),
                directions.len()
            ));
        }
        self.check_recurrent(call, cell, count)?;
        let x = self.float(call, &x)?;
        if x.merged > 1 {
            return Err("its batch is merged with another axis".to_owned());
        }
        let states = usize::from(cell == Cell::Lstm) + 1;
        let (mut sequences, mut last) = (Vec::new(), vec![Vec::new(); states]);
        for (at, (&(name, reverse), functions)) in directions.iter().zip(functions).enumerate() {
            let direction = self.direction(call, cell, x, (at, directions.len()), name, functions)?;
            let hidden = direction.hidden;
            let shape = [batch, Length::Known(directions.len() as i64), Length::Known(hidden as i64)];
            let h = self.initial(call, (5, "initial_h"), batch_axis, at, &shape)?;
            let c = match cell.cell_inputs() {
                Some((_, input)) => self.initial(call, (input, "initial_c"), batch_axis, at, &shape)?,
                None => None,
            };
            let (mut h, mut c, mut steps) = (h, c, Vec::with_capacity(count));
            for step in 0..count {
                let step = if reverse { count - 1 - step } else { step };
                let (next, next_c) = self.step(call, cell, &direction, step, h, c)?;
                (h, c) = (Some(next), next_c);
                steps.push(next);
            }
            if reverse {
                steps.reverse();
            }
            sequences.push(self.joined(&call.part(&format!("{name}.steps")), &steps, 1)?);
            for (list, state) in last.iter_mut().zip([h, c]) {
                list.extend(state);
            }
        }
        let hidden = self.draft.shape(sequences[0]).axis(2).unwrap_or(0);
        let is_read = |at: usize| call.node.output.get(at).is_some_and(|name| !name.is_empty());
        let mut results = vec![Value::Unsupported; states + 1];
        if is_read(0) {
            let id = self.joined(&call.part("sequence"), &sequences, 2)?;
            let mut dims = vec![count, directions.len(), hidden];
            if !self.draft.shape(id).is_batched() {
                dims.insert(0, self.draft.shape(id).axis(0).unwrap_or(0));
            }
            let id = self.draft.add(&call.name, Reshape { dims }, &[id])?;
            let value = Value::Run(Run { id, merged: 1, kind: Kind::Float });
            results[0] = self.with_front_at(call, "output", value, 2 * batch_axis)?;
        }
        for (at, state) in last.iter().enumerate().filter(|(at, _)| is_read(at + 1)) {
            let part = ["last_h", "last_c"][at];
            let id = self.joined(&call.part(part), state, 1)?;
            let value = Value::Run(Run { id, merged: 1, kind: Kind::Float });
            results[at + 1] = self.with_front_at(call, &format!("{part}.output"), value, batch_axis)?;
        }
        Ok(results)
    }

    /// The functions of each direction.
    fn functions_of(call: &Call<'_>, cell: Cell, directions: usize) -> Result<Vec<Vec<UnaryOp>>, String> {
        let own = cell.functions();
        let Some(names) = call.node.strings("activations")? else { return Ok(vec![own.to_vec(); directions]) };
        if names.len() != own.len() * directions {
            return Err(format!("it has {} activations, expected {}", names.len(), own.len() * directions));
        }
        let function = |name: &&str| match functions::function(name) {
            Some(op @ (UnaryOp::Relu | UnaryOp::Sigmoid | UnaryOp::Tanh)) => Ok(op),
            _ => Err(format!("its activation is {name}; supported are Relu, Sigmoid and Tanh")),
        };
        names.chunks(own.len()).map(|names| names.iter().map(function).collect()).collect()
    }

    /// Refuses what is not supported, by name.
    fn check_recurrent(&mut self, call: &Call<'_>, cell: Cell, steps: usize) -> Result<(), String> {
        let clip = call.node.float("clip", 0.0)?;
        if clip != 0.0 {
            return Err(format!("its clip is {clip}, which is not supported"));
        }
        if call.node.int("input_forget", 0)? != 0 {
            return Err("its input_forget couples two gates, which is not supported".to_owned());
        }
        if let Some((peepholes, _)) = cell.cell_inputs()
            && let Some(value) = call.optional(peepholes)
        {
            let zero = |host: &Host| host.floats().is_some_and(|v| v.iter().all(|v| *v == 0.0));
            if matches!(value, Value::Run(_)) || !zero(&*self.host(value)?) {
                return Err("its input P has peepholes, which are not supported".to_owned());
            }
        }
        if let Some(value) = call.optional(4) {
            if let Value::Run(_) | Value::Deferred(_) = value {
                return Err("its sequence_lens are computed at run time, which is not supported".to_owned());
            }
            let lengths = self.host(value)?.integers()?;
            if let Some(length) = lengths.iter().find(|length| **length != steps as i64) {
                return Err(format!(
                    "its sequence_lens have {length}; supported is the length {steps} of the sequence"
                ));
            }
        }
        Ok(())
    }

    /// A known parameter `[directions, …]` of so many axes.
    fn recurrent_parameter(
        &mut self,
        value: &Value,
        name: &str,
        directions: usize,
        rank: usize,
    ) -> Result<std::sync::Arc<Host>, String> {
        let host = self.host(value).map_err(|reason| format!("its {name} must be known: {reason}"))?;
        host.fixed()?;
        if host.dims.len() != rank || host.dims[0] != directions || host.dims.contains(&0) {
            return Err(format!(
                "its {name} has shape {:?}, expected {rank} axes for {directions} directions",
                host.dims
            ));
        }
        match host.floats() {
            Some(_) => Ok(host),
            None => Err(format!("its {name} is not made of floats")),
        }
    }

    /// Rows of a parameter of one direction, as a constant.
    fn parameter_rows(&mut self, host: &Host, direction: usize, rows: Range<usize>) -> Result<NodeId, String> {
        let width: usize = host.dims[2..].iter().product();
        let start = (direction * host.dims[1] + rows.start) * width;
        let count = rows.len() * width;
        self.budget.take(count, 4)?;
        let floats = host.floats().and_then(|v| v.get(start..start + count)).ok_or("a parameter is too short")?;
        let dims: Vec<usize> = [rows.len()].into_iter().chain(host.dims[2..].iter().copied()).collect();
        let tensor = Tensor::from_f32(&dims, floats.to_vec()).map_err(|e| e.to_string())?;
        Ok(self.draft.constant("", tensor))
    }

    fn direction(
        &mut self,
        call: &Call<'_>,
        cell: Cell,
        x: Run,
        (at, directions): (usize, usize),
        name: &'static str,
        functions: Vec<UnaryOp>,
    ) -> Result<Direction, String> {
        let w = self.recurrent_parameter(call.input(1)?, "W", directions, 3)?;
        let r = self.recurrent_parameter(call.input(2)?, "R", directions, 3)?;
        let (gates, hidden) = (cell.gates(), r.dims[2]);
        let own = call.node.int("hidden_size", hidden as i64)?;
        let rows = gates.saturating_mul(hidden);
        if w.dims[1] != rows || r.dims[1] != rows || own != hidden as i64 {
            return Err(format!(
                "its W {:?} and R {:?} are not those of {gates} gates and a hidden_size of {own}",
                w.dims, r.dims
            ));
        }
        let resets_behind = cell == Cell::Gru && call.node.int("linear_before_reset", 0)? != 0;
        let (mut bias, mut reset_bias, mut state_bias) = (None, None, None);
        if let Some(value) = call.optional(3) {
            let b = self.recurrent_parameter(value, "B", directions, 2)?;
            if b.dims[1] != 2 * rows {
                return Err(format!("its B has shape {:?}, expected {} for each direction", b.dims, 2 * rows));
            }
            self.budget.take(2 * rows, 4)?;
            let all = b.floats().and_then(|v| v.get(2 * rows * at..2 * rows * (at + 1))).ok_or("its B is too short")?;
            let (of_input, of_state) = all.split_at(rows);
            // The bias of the state is added with that of the input, unless the reset gate scales it.
            let apart = if resets_behind { 2 * hidden } else { rows };
            let sum = of_input.iter().zip(of_state).enumerate().map(|(i, (a, b))| if i < apart { a + b } else { *a });
            let sum = Tensor::from_f32(&[rows], sum.collect()).map_err(|e| e.to_string())?;
            bias = Some(self.draft.constant("", sum));
            if resets_behind {
                let last = Tensor::from_f32(&[hidden], of_state[apart..].to_vec()).map_err(|e| e.to_string())?;
                reset_bias = Some(self.draft.constant("", last));
                let padded = of_state.iter().enumerate().map(|(i, v)| if i < apart { 0.0 } else { *v }).collect();
                let padded = Tensor::from_f32(&[rows], padded).map_err(|e| e.to_string())?;
                state_bias = Some(self.draft.constant("", padded));
            }
        }
        let split = cell == Cell::Gru && !resets_behind;
        let state = self.parameter_rows(&r, at, 0..if split { 2 * hidden } else { rows })?;
        let candidate = if split { Some(self.parameter_rows(&r, at, 2 * hidden..rows)?) } else { None };
        let weight = self.parameter_rows(&w, at, 0..rows)?;
        let inputs: Vec<NodeId> = [x.id, weight].into_iter().chain(bias).collect();
        let input = self.draft.add(&call.part(&format!("{name}.input")), Linear::default(), &inputs)?;
        Ok(Direction { name, functions, hidden, input, state, candidate, reset_bias, state_bias, resets_behind })
    }

    /// The initial state of a direction as one step; `None` if it is 0.
    fn initial(
        &mut self,
        call: &Call<'_>,
        (input, name): (usize, &str),
        batch_axis: usize,
        direction: usize,
        shape: &[Length; 3],
    ) -> Result<Option<NodeId>, String> {
        let Some(value) = call.optional(input) else { return Ok(None) };
        let value = self.with_axis_in_front(call, name, value, batch_axis)?;
        let lengths = self.logical(&value);
        if lengths != shape {
            return Err(format!(
                "its {name} has shape {}, expected {} with the batch in front",
                show(&lengths),
                show(shape)
            ));
        }
        if let Value::Host(host) = &value
            && host.floats().is_some_and(|v| v.iter().all(|v| *v == 0.0))
        {
            return Ok(None);
        }
        let run = self.float(call, &value)?;
        self.cut(&call.part(&format!("{name}{direction}")), run.id, 1, direction, 1).map(Some)
    }

    /// One step: the next state, and that of the cell of an LSTM.
    fn step(
        &mut self,
        call: &Call<'_>,
        cell: Cell,
        d: &Direction,
        step: usize,
        h: Option<NodeId>,
        c: Option<NodeId>,
    ) -> Result<(NodeId, Option<NodeId>), String> {
        let name = |part: &str| call.part(&format!("{}{step}.{part}", d.name));
        let input = self.cut(&name("input"), d.input, 1, step, 1)?;
        if cell == Cell::Gru {
            return Ok((self.gru_step(d, &name, input, h)?, None));
        }
        let gates = match h {
            Some(h) => {
                let state = self.draft.add(&name("state"), Linear::default(), &[h, d.state])?;
                self.draft.add(&name("sum"), Add, &[input, state])?
            }
            None => input,
        };
        if cell == Cell::Rnn {
            return Ok((self.unary(&name("h"), d.functions[0], gates)?, None));
        }
        // The order of the gates is input, output, forget, candidate.
        let n = d.hidden;
        let gate = |i: &mut Self, part: &str, from: NodeId, at: usize| i.cut(&name(part), from, 2, at * n, n);
        let sums = self.cut(&name("gates.sum"), gates, 2, 0, 3 * n)?;
        let open = self.unary(&name("gates"), d.functions[0], sums)?;
        let candidate = gate(self, "candidate.sum", gates, 3)?;
        let candidate = self.unary(&name("candidate"), d.functions[1], candidate)?;
        let let_in = gate(self, "input_gate", open, 0)?;
        let mut cell_state = self.draft.add(&name("new"), Mul, &[let_in, candidate])?;
        if let Some(c) = c {
            let forget = gate(self, "forget_gate", open, 2)?;
            let kept = self.draft.add(&name("kept"), Mul, &[forget, c])?;
            cell_state = self.draft.add(&name("c"), Add, &[kept, cell_state])?;
        }
        let shown = self.unary(&name("shown"), d.functions[2], cell_state)?;
        let let_out = gate(self, "output_gate", open, 1)?;
        Ok((self.draft.add(&name("h"), Mul, &[let_out, shown])?, Some(cell_state)))
    }

    /// `(1 − z) · candidate + z · h`. The order of the gates is update `z`, reset, candidate.
    fn gru_step(
        &mut self,
        d: &Direction,
        name: &dyn Fn(&str) -> String,
        input: NodeId,
        h: Option<NodeId>,
    ) -> Result<NodeId, String> {
        let n = d.hidden;
        let of_gates = self.cut(&name("gates.input"), input, 2, 0, 2 * n)?;
        let of_candidate = self.cut(&name("candidate.input"), input, 2, 2 * n, n)?;
        let mut state = None;
        let mut gates = of_gates;
        if let Some(h) = h {
            let inputs: Vec<NodeId> = [h, d.state].into_iter().chain(d.state_bias).collect();
            let product = self.draft.add(&name("state"), Linear::default(), &inputs)?;
            let own = self.cut(&name("gates.state"), product, 2, 0, 2 * n)?;
            gates = self.draft.add(&name("gates.sum"), Add, &[of_gates, own])?;
            state = Some(product);
        }
        let open = self.unary(&name("gates"), d.functions[0], gates)?;
        let update = self.cut(&name("update_gate"), open, 2, 0, n)?;
        let reset = self.cut(&name("reset_gate"), open, 2, n, n)?;
        let recurrent = match (h, state, d.candidate) {
            (Some(h), _, Some(weight)) => {
                let left = self.draft.add(&name("reset"), Mul, &[reset, h])?;
                Some(self.draft.add(&name("candidate.state"), Linear::default(), &[left, weight])?)
            }
            (_, Some(state), None) => {
                let own = self.cut(&name("candidate.state"), state, 2, 2 * n, n)?;
                Some(self.draft.add(&name("reset"), Mul, &[reset, own])?)
            }
            // Of a state of 0, the bias is left.
            _ => match d.reset_bias.filter(|_| d.resets_behind) {
                Some(bias) => Some(self.draft.add(&name("reset"), Mul, &[reset, bias])?),
                None => None,
            },
        };
        let sum = match recurrent {
            Some(recurrent) => self.draft.add(&name("candidate.sum"), Add, &[of_candidate, recurrent])?,
            None => of_candidate,
        };
        let candidate = self.unary(&name("candidate"), d.functions[1], sum)?;
        let rest = self.one_minus(&name("rest"), update)?;
        let new =
            self.draft.add(if h.is_some() { name("new") } else { name("h") }.as_str(), Mul, &[rest, candidate])?;
        let Some(h) = h else { return Ok(new) };
        let kept = self.draft.add(&name("kept"), Mul, &[update, h])?;
        self.draft.add(&name("h"), Add, &[new, kept])
    }
}
