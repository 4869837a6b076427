//! The listing of a graph: one line for each node.

use std::fmt;

use super::{Graph, Node};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            writeln!(f, "{}", Line { graph: self, node })?;
        }
        let outputs: Vec<&str> = self.outputs().iter().map(|&id| self.node(id).name.as_str()).collect();
        writeln!(f, "return {}", outputs.join(", "))
    }
}

struct Line<'g> {
    graph: &'g Graph,
    node: &'g Node,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { name, op, inputs, shape, dtype, .. } = self.node;
        let inputs: Vec<&str> = inputs.iter().map(|&id| self.graph.node(id).name.as_str()).collect();
        write!(f, "{name}: {dtype}{shape} = {}({})", op.name(), inputs.join(", "))?;
        op.write_parameters(f)
    }
}
