//! The gradients of a pass, in buffers that the next pass uses again.

use std::collections::HashMap;

use crate::graph::NodeId;

/// Gradients by node.
#[derive(Debug, Clone, Default)]
pub(super) struct GradientBuffers {
    /// Nodes that gradients have to reach.
    pub(super) wanted: Vec<bool>,
    buffers: Vec<Vec<f32>>,
    filled: Vec<bool>,
    /// Buffers that nothing uses, by length.
    spare: HashMap<usize, Vec<Vec<f32>>>,
}

impl GradientBuffers {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            wanted: vec![false; nodes],
            buffers: vec![Vec::new(); nodes],
            filled: vec![false; nodes],
            spare: HashMap::new(),
        }
    }

    /// Forgets the last pass, but not its buffers.
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
        let mut more = self.spare.get_mut(&length).and_then(Vec::pop).unwrap_or_else(|| vec![0.0; length]);
        write(&mut more);
        self.buffers[at].iter_mut().zip(&more).for_each(|(sum, more)| *sum += more);
        self.spare.entry(length).or_default().push(more);
    }

    /// Adds a gradient that nothing else needs: its buffer changes places with that of the node.
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

    /// The gradient of a node; nothing if none has reached it.
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
