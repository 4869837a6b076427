//! Other weights for a model that is bound already.

use std::sync::{Arc, PoisonError};

use super::bound::{Bound, without_params};
use super::device::error::GpuError;
use super::device::scope::scoped;
use super::kernels::linear::weights::WeightPart;
use super::known_answer;
use super::model::{Model, StepData};
use super::progress::Progress;
use super::schedule::plan::{Plan, PlanOptions};
use crate::program::{Program, QConv, Step, StepOp, Value, ValueId};

impl Model {
    /// Replaces the weights of this model by those of a program of the same network, as training or tuning goes on, or for another style
    /// or character. Its runs need no new bind: recordings that are submitted from now on compute with the new weights, also those
    /// that were recorded before.
    ///
    /// ```no_run
    /// # use enfold::gpu::{GpuError, Model, Run};
    /// # async fn next(model: &mut Model, run: &Run, trained: &enfold::program::Program) -> Result<(), GpuError> {
    /// model.replace_weights(trained).await?; // `run`, which `model` has bound before, computes with them
    /// # let _ = run;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Everything that a shape does not depend on may be another: weights, biases, scales and zero points. It uploads the weights to new memory,
    /// and submits copies to the old one; it waits for nothing unless a kernel is tested for the first time.
    ///
    /// # Errors
    /// Returns [`GpuError::OtherNetwork`] with the name of the layer and both shapes if they differ, or if the new numbers need other kernels
    /// or another division of a weight: then bind the program anew. Also returns the errors of [`Engine::load`](super::Engine::load). After an
    /// error the model has its old weights.
    pub async fn replace_weights(&mut self, program: &Program) -> Result<(), GpuError> {
        check_same(&self.program, program)?;
        let (device, config) = (&self.device, &self.config);
        known_answer::check_program(device, config, program, &mut Progress::silent()).await?;
        let new = Self::load(device, config, program, &mut Progress::silent()).await?;
        for (at, (old, new)) in self.steps.iter().zip(&new.steps).enumerate() {
            if old.parts() != new.parts() {
                let what = "parts of its weight";
                return Err(other(
                    &program.steps()[at].name,
                    what,
                    format!("{:?}", new.parts()),
                    format!("{:?}", old.parts()),
                ));
            }
        }
        let (from, to) = (new.buffers(), self.buffers());
        let layout = |all: &[&wgpu::Buffer]| -> Vec<(usize, u64)> {
            let first = |buffer: &&wgpu::Buffer| all.iter().position(|other| other == buffer).unwrap_or(0);
            all.iter().map(|buffer| (first(buffer), buffer.size())).collect()
        };
        if layout(&from) != layout(&to) {
            let total = |all: &[&wgpu::Buffer]| all.iter().map(|buffer| buffer.size()).sum::<u64>();
            let bytes = |all| format!("{} bytes", total(all));
            return Err(other("program", "buffers, or layers that share a weight:", bytes(&from), bytes(&to)));
        }
        let bound: Vec<Arc<Bound>> = {
            let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
            bound.retain(|bound| bound.strong_count() > 0);
            bound.iter().filter_map(std::sync::Weak::upgrade).collect()
        };
        let weights: Vec<&[WeightPart]> = new.steps.iter().map(StepData::parts).collect();
        let mut params = Vec::with_capacity(bound.len());
        for bound in &bound {
            let options = PlanOptions {
                max_rows: bound.max_rows,
                weights: &weights,
                copied: &bound.copied,
                alignment: device.limits.min_storage_buffer_offset_alignment.into(),
                max_bytes: device.limits.max_buffer_size,
            };
            let plan = Plan::new(program, config, options)?;
            let planned = without_params(&plan.dispatches);
            let differs = planned.iter().zip(&bound.planned).find(|(new, old)| new != old);
            if let Some((new, _)) = differs {
                return Err(other(&new.name, "kernels:", "others".to_owned(), "those that were bound".to_owned()));
            }
            let (actual, expected) = (planned.len(), bound.planned.len());
            if actual != expected {
                return Err(other("program", "dispatches:", actual.to_string(), expected.to_string()));
            }
            params.push(plan.params(bound.params_stride));
        }
        // Nothing can be refused from here on.
        let mut encoder =
            device.wgpu.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("replace weights") });
        for (at, (from, buffer)) in from.iter().zip(&to).enumerate() {
            // Layers may share weights.
            if !to[..at].contains(buffer) {
                encoder.copy_buffer_to_buffer(from, 0, buffer, 0, buffer.size());
            }
        }
        scoped(&device.wgpu, "replace weights", || {
            for (bound, params) in bound.iter().zip(&params) {
                device.queue.write_buffer(&bound.params, 0, params);
            }
            device.queue.submit([encoder.finish()]);
        })
        .await?;
        self.program = program.clone();
        Ok(())
    }
}

fn other(name: &str, what: &'static str, actual: String, expected: String) -> GpuError {
    GpuError::OtherNetwork { name: name.to_owned(), what, actual, expected }
}

/// Checks that two programs have the same steps on values of the same shapes, and weights of the same shapes.
fn check_same(old: &Program, new: &Program) -> Result<(), GpuError> {
    let counts = |program: &Program| [program.steps().len(), program.values().len(), program.constants().len()];
    for (what, actual, expected) in
        ["steps:", "values:", "constants:"].iter().zip(counts(new)).zip(counts(old)).map(|((w, a), e)| (*w, a, e))
    {
        if actual != expected {
            return Err(other("program", what, actual.to_string(), expected.to_string()));
        }
    }
    let layer = |step: &Step| match &step.op {
        StepOp::QLinear(layer) | StepOp::QConv(QConv { layer, .. }) => {
            format!("[{}, {}] of {} bits", layer.n, layer.k, layer.bits)
        }
        op => op.name().to_owned(),
    };
    for (old, new) in old.steps().iter().zip(new.steps()) {
        let (actual, expected) = (layer(new), layer(old));
        if actual != expected {
            return Err(other(&old.name, "weight", actual, expected));
        }
        if (&new.inputs, new.output) != (&old.inputs, old.output) {
            let reads = |step: &Step| format!("{:?}", step.inputs.iter().map(|id| id.index()).collect::<Vec<_>>());
            return Err(other(&old.name, "inputs:", reads(new), reads(old)));
        }
    }
    let shape = |value: &Value| format!("{:?} {}", value.value_type, value.shape);
    for (old, new) in old.values().iter().zip(new.values()) {
        if (new.value_type, &new.shape) != (old.value_type, &old.shape) {
            return Err(other(&old.name, "shape", shape(new), shape(old)));
        }
    }
    let ends = |program: &Program| {
        let constants = program.constants().iter().map(|(id, _)| *id);
        let all: Vec<ValueId> = program.inputs().iter().chain(program.outputs()).copied().chain(constants).collect();
        all
    };
    if ends(new) != ends(old) {
        return Err(other(
            "program",
            "inputs, outputs or constants:",
            "others".to_owned(),
            "those of the model".to_owned(),
        ));
    }
    Ok(())
}
