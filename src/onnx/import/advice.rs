//! The advice to give the batch a length, or a dimension another length than it has been given. It is kept only where an import with such
//! a length goes further, and names one that does.

use std::collections::BTreeSet;

use crate::graph::Graph;
use crate::onnx::ImportOptions;
use crate::onnx::error::{EXAMPLE_LENGTH, OnnxError, UnsupportedNode};

/// The most lengths that are tried, and the largest.
const MAX_TRIES: usize = 6;
const MAX_LENGTH: usize = 1 << 12;

/// What an error says of one node, or of an output, about a dimension.
struct Advice<'e> {
    reason: &'e str,
    dim: &'e mut Option<String>,
    length: &'e mut usize,
    /// The node's name and operator; `None` for an output.
    node: Option<(&'e str, &'e str)>,
    output: Option<&'e str>,
}

impl Advice<'_> {
    /// Whether an import with a length goes further.
    fn helps(&self, again: &Result<Graph, OnnxError>) -> bool {
        match (again, self.node) {
            (Ok(_), _) => true,
            (Err(OnnxError::Unsupported(others)), Some((name, op_type))) => {
                !others.iter().any(|other| other.name == name && other.op_type == op_type)
            }
            // All nodes were imported.
            (Err(OnnxError::Output { .. }), Some(_)) => true,
            (Err(OnnxError::Output { output, .. }), None) => self.output != Some(output.as_str()),
            (Err(_), _) => false,
        }
    }
}

fn advice(error: &mut OnnxError) -> Vec<Advice<'_>> {
    let all = match error {
        OnnxError::Unsupported(nodes) => nodes
            .iter_mut()
            .map(|UnsupportedNode { name, op_type, reason, dim, length, .. }| {
                let node = Some((name.as_str(), op_type.as_str()));
                Advice { reason, dim, length, node, output: None }
            })
            .collect(),
        OnnxError::Output { output, problem, dim, length } => {
            vec![Advice { reason: problem, dim, length, node: None, output: Some(output) }]
        }
        _ => Vec::new(),
    };
    all.into_iter().filter(|advice| advice.dim.is_some()).collect()
}

/// The numbers in a text.
fn numbers(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

/// The same error without advice that does not help. It tries a few lengths: that of the example, 1, and those in the reasons, such as one
/// that a file holds in a shape.
pub(super) fn tried(
    mut error: OnnxError,
    options: &ImportOptions,
    import: impl Fn(&ImportOptions) -> Result<Graph, OnnxError>,
) -> OnnxError {
    let mut open = advice(&mut error);
    let Some(dim) = open.first().and_then(|advice| advice.dim.clone()) else { return error };
    let named: BTreeSet<usize> = open.iter().flat_map(|advice| numbers(advice.reason)).collect();
    let named = named.into_iter().filter(|length| (2..=MAX_LENGTH).contains(length) && *length != EXAMPLE_LENGTH);
    for length in [EXAMPLE_LENGTH, 1].into_iter().chain(named).take(MAX_TRIES) {
        if open.is_empty() {
            break;
        }
        let mut options = options.clone();
        options.dims.insert(dim.clone(), length);
        let again = import(&options);
        open.retain_mut(|advice| {
            let helps = advice.helps(&again);
            if helps {
                *advice.length = length;
            }
            !helps
        });
    }
    open.into_iter().for_each(|advice| *advice.dim = None);
    error
}

/// The same error with the lengths that the file is made for: nodes that refuse a length that has been given, in a file that can be imported
/// with a number that their reasons name, such as one that a shape in the file holds.
pub(super) fn fixed(
    mut error: OnnxError,
    options: &ImportOptions,
    import: impl Fn(&ImportOptions) -> Result<Graph, OnnxError>,
) -> OnnxError {
    let OnnxError::Unsupported(nodes) = &mut error else { return error };
    let named: BTreeSet<usize> = nodes.iter().flat_map(|node| numbers(&node.reason)).collect();
    let named = named.into_iter().filter(|length| (2..=MAX_LENGTH).contains(length));
    // A length of 1 comes last: it fits whatever broadcasts.
    let tries =
        named.chain([1]).flat_map(|length| options.dims.iter().map(move |(name, given)| (name, *given, length)));
    for (name, given, length) in tries.filter(|(_, given, length)| given != length).take(2 * MAX_TRIES) {
        let mut options = options.clone();
        options.dims.insert(name.clone(), length);
        if import(&options).is_ok() {
            // No node refuses the file then, also none that the batch's length would help.
            for node in nodes.iter_mut() {
                (node.dim, node.length, node.given) = (Some(name.clone()), length, Some(given));
            }
            break;
        }
    }
    error
}
