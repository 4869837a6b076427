//! The training loop.

use std::fmt;

use super::{Loss, Optimizer, QatError, Schedule, TrainableGraph};
use crate::values::Tensor;

/// A trainer of a graph's first output on a set of examples. All fields may be changed before [`fit`](Self::fit).
#[derive(Debug, Clone)]
pub struct Trainer {
    /// The loss that training minimizes.
    pub loss: Loss,
    /// The optimizer. It keeps its state from one call to the next.
    pub optimizer: Optimizer,
    /// The schedule of the learning rate over all steps of a call.
    pub schedule: Schedule,
    /// The number of passes over all examples: 10 at first.
    pub epochs: usize,
    /// The number of examples in a step; the last step of an epoch may have fewer. 64 at first.
    pub batch_rows: usize,
    /// The seed of the order of the examples.
    pub seed: u64,
    /// The number of epochs at the end in which observers are off and batch norms frozen, so that the network settles on the scales and
    /// statistics that it will have. 0 at first.
    pub settled_epochs: usize,
}

/// The progress after one step, for callbacks; prints itself in one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The step, counted from 1 over all epochs.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// The mean loss of the epoch so far.
    pub loss: f64,
    /// The share of the examples of this epoch so far whose label had the largest output; `None` without labels.
    pub accuracy: Option<f64>,
    /// The rate of this step.
    pub learning_rate: f32,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}/{}, epoch {}: loss {:.5}", self.step, self.steps, self.epoch, self.loss)?;
        if let Some(accuracy) = self.accuracy {
            write!(f, ", accuracy {accuracy:.4}")?;
        }
        Ok(())
    }
}

impl Trainer {
    /// Creates a trainer for ten epochs of 64 examples a step at a constant rate.
    #[must_use]
    pub fn new(loss: Loss, optimizer: Optimizer) -> Self {
        let schedule = Schedule::Constant;
        Self { loss, optimizer, schedule, epochs: 10, batch_rows: 64, seed: 0, settled_epochs: 0 }
    }

    /// Trains on `inputs`, one tensor `[examples, …]` for each input of the graph, and `targets`, `[examples, …]` as the loss
    /// takes them. `progress` is called after each step.
    ///
    /// # Errors
    /// Returns [`QatError::Size`] for no examples, no epochs, or inputs and targets of different lengths; [`QatError::Diverged`]
    /// for a loss that is not finite, with the parameters as they were before that step; and the errors of
    /// [`TrainableGraph::forward`] and of [`Loss::evaluate`].
    pub fn fit(
        &mut self,
        model: &mut TrainableGraph,
        inputs: &[&Tensor],
        targets: &Tensor,
        mut progress: impl FnMut(&Progress),
    ) -> Result<(), QatError> {
        let examples = self.examples(inputs, targets)?;
        let batches = examples.div_ceil(self.batch_rows) as u64;
        let (steps, rate) = (batches * self.epochs as u64, self.optimizer.learning_rate);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut order: Vec<usize> = (0..examples).collect();
        let mut step = 0;
        for epoch in 0..self.epochs {
            if self.settled_epochs > 0 && epoch + self.settled_epochs >= self.epochs {
                model.enable_observers(false);
                model.freeze_norms(true);
            }
            random.shuffle(&mut order);
            let mut sums = Sums::default();
            for rows in order.chunks(self.batch_rows) {
                let batch: Vec<Tensor> = inputs.iter().map(|input| select(input, rows)).collect();
                let target = select(targets, rows);
                self.optimizer.learning_rate = rate * self.schedule.factor(step, steps);
                let taken = self.step(model, &batch, &target, step);
                let (used_rate, loss) = (std::mem::replace(&mut self.optimizer.learning_rate, rate), taken?);
                step += 1;
                sums.add(loss, rows.len());
                progress(&Progress {
                    step,
                    steps,
                    epoch: epoch + 1,
                    loss: sums.loss / sums.rows as f64,
                    accuracy: (self.loss == Loss::CrossEntropy).then(|| sums.right as f64 / sums.labels.max(1) as f64),
                    learning_rate: used_rate,
                });
            }
        }
        Ok(())
    }

    /// Makes one step on one batch. Returns the loss and, with labels, the number of correct and of all labels.
    fn step(
        &mut self,
        model: &mut TrainableGraph,
        batch: &[Tensor],
        target: &Tensor,
        step: u64,
    ) -> Result<(f64, [usize; 2]), QatError> {
        let outputs = model.forward(batch)?;
        let (loss, gradient) = self.loss.evaluate(&outputs[0], target)?;
        let others = outputs[1..].iter().map(|y| Tensor::from_f32(y.shape(), vec![0.0; y.len()]).expect("as long"));
        let gradients: Vec<Tensor> = std::iter::once(gradient).chain(others).collect();
        model.backward(&gradients)?;
        if !loss.is_finite() {
            let (node, gradient) = model.largest_gradient();
            return Err(QatError::Diverged { step, loss, node, gradient });
        }
        model.step(&mut self.optimizer);
        Ok((loss, if self.loss == Loss::CrossEntropy { hits(&outputs[0], target) } else { [0, 0] }))
    }

    fn examples(&self, inputs: &[&Tensor], targets: &Tensor) -> Result<usize, QatError> {
        let examples = targets.shape().first().copied().unwrap_or(0);
        let at_least = |what, actual: usize| match actual {
            0 => Err(QatError::Size { what, actual, expected: "at least 1".to_owned() }),
            _ => Ok(()),
        };
        at_least("number of examples", examples)?;
        at_least("number of epochs", self.epochs)?;
        at_least("number of examples in a step", self.batch_rows)?;
        for input in inputs {
            let actual = input.shape().first().copied().unwrap_or(0);
            if actual != examples {
                let expected = format!("{examples} as in the targets");
                return Err(QatError::Size { what: "number of examples of an input", actual, expected });
            }
        }
        Ok(examples)
    }
}

/// Sums over an epoch.
#[derive(Default)]
struct Sums {
    loss: f64,
    rows: usize,
    right: usize,
    labels: usize,
}

impl Sums {
    fn add(&mut self, (loss, [right, labels]): (f64, [usize; 2]), rows: usize) {
        self.loss += loss * rows as f64;
        self.rows += rows;
        self.right += right;
        self.labels += labels;
    }
}

/// Selects rows of a tensor.
fn select(tensor: &Tensor, rows: &[usize]) -> Tensor {
    use ndarray::Axis;
    match tensor {
        Tensor::F32(a) => Tensor::from(a.array().select(Axis(0), rows)),
        Tensor::I8(a) => Tensor::from(a.array().select(Axis(0), rows)),
        Tensor::I32(a) => Tensor::from(a.array().select(Axis(0), rows)),
        Tensor::I64(a) => Tensor::from(a.array().select(Axis(0), rows)),
    }
}

/// The number of labels that have the largest output of their row, and the number of all labels.
fn hits(output: &Tensor, labels: &Tensor) -> [usize; 2] {
    let classes = output.shape().last().copied().unwrap_or(1).max(1);
    let rows = output.as_f32().expect("a loss of floats").chunks_exact(classes);
    let labels = labels.as_i32().expect("the loss has taken them as labels");
    let largest = |row: &[f32]| (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
    let right = rows.zip(labels).filter(|(row, label)| largest(row) as i32 == **label).count();
    [right, labels.len()]
}
