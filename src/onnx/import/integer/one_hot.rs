//! `OneHot`: one value at the place of an integer, and another one elsewhere.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::onnx::host::{self, Data, Host, Length};
use crate::onnx::value::{Kind, Run, Value};
use crate::ops::{Int32Op, ToFloat, Where};

impl Importer {
    /// Integers below 0 count from the end. Where an integer is no place, all is the value of elsewhere.
    pub(super) fn one_hot(&mut self, call: &Call<'_>) -> Values {
        let mut lengths = self.logical(call.input(0)?);
        let at = host::axis(call.node.int("axis", -1)?, lengths.len() + 1)?;
        let depth = self.host(call.input(1)?)?;
        let depth = match depth.data {
            Data::F32(ref v) => v.first().map(|&v| v as i64),
            _ => depth.integers()?.first().copied(),
        };
        let depth = depth.ok_or("its depth is empty")?;
        let count = usize::try_from(depth).ok().filter(|n| (1..=i32::MAX as usize).contains(n));
        let count = count.ok_or_else(|| format!("its depth is {depth}"))?;
        self.budget.take(count, size_of::<i64>())?;
        let values = self.host(call.input(2)?)?;
        if values.data.len() != 2 {
            return Err(format!("{} values, expected 2", values.data.len()));
        }
        let x = self.integer(call.input(0)?)?;
        lengths.insert(at, Length::Known(1));
        if matches!(lengths.get(1), Some(Length::Rows(_))) {
            return Err("it moves the batch away from the front".to_owned());
        }
        let x = self.reshaped(&call.part("column"), x, &lengths)?;
        let [zero, end] = [0, count as i32].map(|number| self.whole(number));
        let below = self.wrapping(&call.part("below"), Int32Op::Less, x.id, zero)?;
        let moved = self.wrapping(&call.part("moved"), Int32Op::Mul, below, end)?;
        let place = self.wrapping(&call.part("place"), Int32Op::Add, x.id, moved)?;
        let mut dims = vec![count];
        dims.resize(lengths.len() - at, 1);
        let places = self.integer_constant(&Host::new(dims, Data::I64((0..depth).collect())))?;
        let found = self.wrapping(&call.part("found"), Int32Op::Equal, place, places)?;
        lengths[at] = Length::Known(depth);
        let (id, kind) = match &values.data {
            Data::I64(numbers) => {
                let narrow = |v: i64| i32::try_from(v).map_err(|_| format!("its value {v} does not fit 32 bits"));
                let [off, on] = [narrow(numbers[0])?, narrow(numbers[1])?];
                let [off, difference] = [off, on.wrapping_sub(off)].map(|number| self.whole(number));
                let chosen = self.wrapping(&call.part("chosen"), Int32Op::Mul, found, difference)?;
                let id = self.wrapping(&call.name, Int32Op::Add, chosen, off)?;
                (id, Kind::Int(self.type_of(&Value::Host(values))))
            }
            data => {
                let kind = if matches!(data, Data::Bool(_)) { Kind::Bool } else { Kind::Float };
                let numbers = values.to_floats()?;
                let [off, on] = [numbers[0], numbers[1]].map(|number| self.number(number));
                let condition = self.draft.add(&call.part("condition"), ToFloat, &[found])?;
                (self.draft.add(&call.name, Where, &[condition, on, off])?, kind)
            }
        };
        one(self.of_lengths(Run { id, kind, ..x }, &lengths)?)
    }
}
