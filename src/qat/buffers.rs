//! Buffers for the gradients of a pass, which the next pass reuses.

use std::collections::HashMap;

use crate::graph::NodeId;

/// Gradients by node.
#[derive(Debug, Clone, Default)]
pub(super) struct GradientBuffers {
    /// Nodes that gradients have to reach.
    pub(super) wanted: Vec<bool>,
    buffers: Vec<Vec<f32>>,
    filled: Vec<bool>,
    /// Unused buffers, by length.
    free: HashMap<usize, Vec<Vec<f32>>>,
}

impl GradientBuffers {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            wanted: vec![false; nodes],
            buffers: vec![Vec::new(); nodes],
            filled: vec![false; nodes],
            free: HashMap::new(),
        }
    }

    /// Discards the gradients of the last pass, but not its buffers.
    pub(super) fn start(&mut self) {
        self.filled.fill(false);
    }

    /// Adds what `write` writes to the gradient of a node, if gradients have to reach it.
    pub(super) fn add(&mut self, id: NodeId, length: usize, write: impl FnOnce(&mut [f32])) {
        let at = id.index();
        if !self.wanted[at] {
            return;
        }
        if !self.filled[at] {
            self.buffers[at].resize(length, 0.0);
            write(&mut self.buffers[at]);
            self.filled[at] = true;
            return;
        }
        let mut more = self.buffer(length);
        write(&mut more);
        self.buffers[at].iter_mut().zip(&more).for_each(|(sum, more)| *sum += more);
        self.unused(more);
    }

    /// A buffer of a length, with any contents.
    pub(super) fn buffer(&mut self, length: usize) -> Vec<f32> {
        self.free.get_mut(&length).and_then(Vec::pop).unwrap_or_else(|| vec![0.0; length])
    }

    /// Keeps a buffer for another use.
    pub(super) fn unused(&mut self, buffer: Vec<f32>) {
        if !buffer.is_empty() {
            self.free.entry(buffer.len()).or_default().push(buffer);
        }
    }

    /// Adds a gradient whose buffer is no longer needed: it may be exchanged with that of the node. Returns the unused buffer.
    pub(super) fn give(&mut self, id: NodeId, mut gradient: Vec<f32>) -> Vec<f32> {
        let at = id.index();
        if self.wanted[at] && !self.filled[at] {
            std::mem::swap(&mut self.buffers[at], &mut gradient);
            self.filled[at] = true;
        } else if self.wanted[at] {
            self.buffers[at].iter_mut().zip(&gradient).for_each(|(sum, more)| *sum += more);
        }
        gradient
    }

    /// The gradient of a node; empty if none has reached it.
    pub(super) fn get(&self, id: NodeId) -> &[f32] {
        if self.filled[id.index()] { &self.buffers[id.index()] } else { &[] }
    }

    /// Takes the gradient of a node out, to read it while others are written.
    pub(super) fn take(&mut self, id: NodeId) -> Option<Vec<f32>> {
        self.filled[id.index()].then(|| std::mem::take(&mut self.buffers[id.index()]))
    }

    pub(super) fn put_back(&mut self, id: NodeId, gradient: Vec<f32>) {
        self.buffers[id.index()] = gradient;
    }
}
