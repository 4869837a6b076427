//! Losses, which training minimizes.

use super::QatError;
use crate::values::{DType, Tensor};

/// A loss: the mean over a batch, with its gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Loss {
    /// Mean of `(y − target)²` over all elements. Targets: `f32` in the output's shape.
    Mse,
    /// Mean of `−log softmax(y)[label]` over all rows of the last axis. Targets: `i32` labels, one a row.
    CrossEntropy,
    /// Mean over all rows of `T² · KL(softmax(target/T) ‖ softmax(y/T))`, from the outputs of another network, such as the
    /// float one (Hinton et al. 2015). Targets: `f32` in the output's shape.
    Distillation {
        /// T, positive; 1 to 4 is usual.
        temperature: f32,
    },
}

impl Loss {
    /// Returns the loss of an output, and its gradient in the output's shape. A loss that is not finite is returned as it is.
    ///
    /// # Errors
    /// Returns [`QatError::Target`] for a target of another type or shape, [`QatError::Label`] for a label that is no class,
    /// [`QatError::Option`] for a temperature that is not positive.
    pub fn evaluate(&self, output: &Tensor, target: &Tensor) -> Result<(f64, Tensor), QatError> {
        let shape = output.shape();
        let y = output.as_f32().ok_or_else(|| refused(target, "of nothing: the output is not f32", output))?;
        let classes = shape.last().copied().unwrap_or(1).max(1);
        let mut gradient = vec![0f32; y.len()];
        let loss = match *self {
            Self::Mse => mse(y, floats(target, output)?, &mut gradient),
            Self::CrossEntropy => {
                let rows = &shape[..shape.len().saturating_sub(1)];
                let labels = target.as_i32().filter(|_| target.shape() == rows);
                let labels = labels.ok_or_else(|| refused(target, &format!("i32{rows:?}"), output))?;
                cross_entropy(y, labels, classes, &mut gradient)?
            }
            Self::Distillation { temperature } => {
                let t = f64::from(temperature);
                if !(t > 0.0 && t.is_finite()) {
                    return Err(QatError::Option { what: "temperature", value: t, expected: "positive" });
                }
                distillation(y, floats(target, output)?, classes, t, &mut gradient)
            }
        };
        let gradient = Tensor::from_f32(shape, gradient).expect("the gradient has the output's length");
        Ok((loss, gradient))
    }
}

fn refused(target: &Tensor, expected: &str, output: &Tensor) -> QatError {
    let actual = format!("{}{:?}", target.dtype(), target.shape());
    QatError::Target { actual, expected: expected.to_owned(), output: output.shape().to_vec() }
}

fn floats<'t>(target: &'t Tensor, output: &Tensor) -> Result<&'t [f32], QatError> {
    let fits = target.dtype() == DType::F32 && target.shape() == output.shape();
    let values = target.as_f32().filter(|_| fits);
    values.ok_or_else(|| refused(target, &format!("f32{:?}", output.shape()), output))
}

fn mse(y: &[f32], target: &[f32], gradient: &mut [f32]) -> f64 {
    let n = y.len().max(1) as f64;
    let mut loss = 0.0;
    for ((gradient, &y), &target) in gradient.iter_mut().zip(y).zip(target) {
        let difference = f64::from(y) - f64::from(target);
        loss += difference * difference;
        *gradient = (2.0 * difference / n) as f32;
    }
    loss / n
}

fn cross_entropy(y: &[f32], labels: &[i32], classes: usize, gradient: &mut [f32]) -> Result<f64, QatError> {
    let n = labels.len().max(1) as f64;
    let mut loss = 0.0;
    let rows = y.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes)).zip(labels).enumerate();
    for (row, ((y, gradient), &label)) in rows {
        let class = usize::try_from(label).ok().filter(|&class| class < classes);
        let class = class.ok_or(QatError::Label { row, label, classes })?;
        let p = log_softmax(y, 1.0);
        loss -= p[class];
        for (at, (gradient, p)) in gradient.iter_mut().zip(&p).enumerate() {
            *gradient = ((p.exp() - f64::from(u8::from(at == class))) / n) as f32;
        }
    }
    Ok(loss / n)
}

fn distillation(y: &[f32], target: &[f32], classes: usize, t: f64, gradient: &mut [f32]) -> f64 {
    let n = (y.len() / classes).max(1) as f64;
    let mut loss = 0.0;
    let rows = y.chunks_exact(classes).zip(target.chunks_exact(classes)).zip(gradient.chunks_exact_mut(classes));
    for ((y, target), gradient) in rows {
        let (student, teacher) = (log_softmax(y, t), log_softmax(target, t));
        for ((gradient, student), teacher) in gradient.iter_mut().zip(student).zip(teacher) {
            loss += t * t * teacher.exp() * (teacher - student);
            *gradient = (t * (student.exp() - teacher.exp()) / n) as f32;
        }
    }
    loss / n
}

/// `log softmax(y / t)`.
fn log_softmax(y: &[f32], t: f64) -> Vec<f64> {
    let scaled: Vec<f64> = y.iter().map(|&v| f64::from(v) / t).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|v| libm::exp(v - largest)).sum();
    scaled.iter().map(|v| v - largest - libm::log(sum)).collect()
}
