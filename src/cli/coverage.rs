//! What share of an ONNX file can be imported.

use std::collections::BTreeMap;

use enfold::onnx::UnsupportedNode;

use super::output::count;

/// The most operators that a line lists.
const MAX_LISTED: usize = 20;

/// The share of the nodes of a file that can be imported, and the operators, those that occur most often first.
pub(super) fn share(operators: &BTreeMap<String, usize>, unsupported: &[UnsupportedNode]) -> String {
    let all: usize = operators.values().sum();
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    unsupported.iter().for_each(|node| *refused.entry(&node.op_type).or_default() += 1);
    let supported = all.saturating_sub(unsupported.len());
    if refused.is_empty() {
        let operators = operators.iter().map(|(name, &nodes)| (name.as_str(), nodes)).collect();
        let listed = listed(operators, |name, nodes| format!("{nodes} {name}"));
        return format!("all {} can be imported: {listed}", count(all, "node"));
    }
    // Nodes of functions and branches are not counted in the file.
    let of = |name: &str, nodes: usize| operators.get(name).copied().unwrap_or(0).max(nodes);
    let listed =
        listed(refused.into_iter().collect(), |name, nodes| format!("{name} ({nodes} of {})", of(name, nodes)));
    format!("{supported} of {} can be imported, not {listed}", count(all, "node"))
}

fn listed(mut operators: Vec<(&str, usize)>, text: impl Fn(&str, usize) -> String) -> String {
    operators.sort_by_key(|&(name, nodes)| (std::cmp::Reverse(nodes), name));
    let more = operators.len().saturating_sub(MAX_LISTED);
    let listed: Vec<String> = operators.iter().take(MAX_LISTED).map(|&(name, nodes)| text(name, nodes)).collect();
    let more = if more > 0 { format!(" and {} more", count(more, "operator")) } else { String::new() };
    listed.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_operator() {
        let operators = BTreeMap::from([("Add".to_owned(), 5), ("Foo".to_owned(), 2), ("MatMul".to_owned(), 9)]);
        assert_eq!(share(&operators, &[]), "all 16 nodes can be imported: 9 MatMul, 5 Add, 2 Foo");
        let node = |op_type: &str| UnsupportedNode {
            name: "n".to_owned(),
            op_type: op_type.to_owned(),
            reason: "the operator is not supported".to_owned(),
            dim: None,
            length: 8,
            given: None,
        };
        let refused = [node("Add"), node("Foo"), node("Foo")];
        assert_eq!(share(&operators, &refused), "13 of 16 nodes can be imported, not Foo (2 of 2), Add (1 of 5)");
        // A node of a function.
        assert_eq!(share(&operators, &[node("Bar")]), "15 of 16 nodes can be imported, not Bar (1 of 1)");
    }
}
