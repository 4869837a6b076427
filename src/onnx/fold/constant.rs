//! Operators that make values of shapes and bounds.

use super::{Fold, Folded, one};
use crate::onnx::dims::elements;
use crate::onnx::external::Folders;
use crate::onnx::host::{Data, Host, kept};
use crate::onnx::tensor::Stored;

impl Fold<'_> {
    pub(in crate::onnx) fn constant_of_shape(&mut self) -> Folded {
        let (rows, dims) = kept(&self.input(0)?.shape()?)?;
        let value = match self.node.tensor("value")? {
            None => Host::new(vec![1], Data::F32(vec![0.0])),
            Some(proto) => {
                let stored = Stored::new(proto.clone(), Folders::default()).map_err(|e| e.to_string())?;
                if stored.len() != 1 {
                    return Err(format!("its value has {} elements, expected 1", stored.len()));
                }
                Host::new(vec![1], stored.data()?).typed(stored.data_type)
            }
        };
        let count = elements(&dims).unwrap_or(usize::MAX);
        let filled = self.picked(&value, dims, std::iter::repeat_n(0, count))?;
        one(Host { rows, ..filled })
    }

    pub(in crate::onnx) fn range(&mut self) -> Folded {
        let (start, limit, delta) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let data_type = start.data_type;
        if let (Some(start), Some(limit), Some(delta)) = (start.floats(), limit.floats(), delta.floats()) {
            let (&[start], &[limit], &[delta]) = (start, limit, delta) else {
                return Err("its bounds are not single numbers".to_owned());
            };
            let count = ((f64::from(limit) - f64::from(start)) / f64::from(delta)).ceil();
            // `max` makes 0 of a NaN.
            let count = count.max(0.0) as usize;
            self.budget.take(count, 4)?;
            let values = (0..count).map(|i| (f64::from(start) + i as f64 * f64::from(delta)) as f32).collect();
            return one(Host::new(vec![count], Data::F32(values)).typed(data_type));
        }
        let (start, limit, delta) = (start.integers()?, limit.integers()?, delta.integers()?);
        let (&[start], &[limit], &[delta]) = (start.as_slice(), limit.as_slice(), delta.as_slice()) else {
            return Err("its bounds are not single numbers".to_owned());
        };
        if delta == 0 {
            return Err("its step is 0".to_owned());
        }
        let (start, distance, delta) = (i128::from(start), i128::from(limit) - i128::from(start), i128::from(delta));
        let count = (distance + delta - delta.signum()) / delta;
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        self.budget.take(count, 8)?;
        let values = (0..count).map(|i| (start + i as i128 * delta) as i64).collect();
        one(Host::new(vec![count], Data::I64(values)).typed(data_type))
    }
}
