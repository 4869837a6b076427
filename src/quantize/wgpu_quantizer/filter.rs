//! Scopes: the nodes that a configuration covers.

use std::collections::BTreeSet;
use std::fmt;

use crate::graph::{Graph, NodeId, nearest};
use crate::ops::{Input, Op};
use crate::quantize::config::QuantizationConfig;
use crate::quantize::prepare::PrepareError;

/// The part of a graph that a configuration was set for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    Name(String),
    Type(String),
    Operator(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "module name {name:?}"),
            Self::Type(name) => write!(f, "module type {name:?}"),
            Self::Operator(name) => write!(f, "operator type {name:?}"),
        }
    }
}

impl Scope {
    pub(super) fn is_operator(&self) -> bool {
        matches!(self, Self::Operator(_))
    }

    /// The precedence of a kind of scope; 0 is the first.
    fn rank(&self) -> usize {
        match self {
            Self::Name(_) => 0,
            Self::Type(_) => 1,
            Self::Operator(_) => 2,
        }
    }

    /// Whether a node is in the scope, regardless of other scopes.
    fn contains(&self, graph: &Graph, id: NodeId) -> bool {
        let node = graph.node(id);
        match self {
            Self::Name(path) => {
                node.name.strip_prefix(path.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.'))
            }
            Self::Type(wanted) => {
                // A layer with parameters is a module of its own.
                let own = node.op.module_type() == Some(wanted.as_str());
                own || paths(&node.name).any(|path| graph.modules().get(path) == Some(wanted))
            }
            Self::Operator(wanted) => node.op.name() == wanted,
        }
    }
}

/// "blocks", "blocks.0" and "blocks.0.fc1" of "blocks.0.fc1".
fn paths(name: &str) -> impl Iterator<Item = &str> {
    let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| &name[..end])
}

/// The scopes of a quantizer with their configurations; `None` leaves a scope in float.
#[derive(Debug, Clone, Default)]
pub(super) struct Scopes(Vec<(Scope, Option<QuantizationConfig>)>);

impl Scopes {
    pub(super) fn push(&mut self, scope: Scope, config: Option<QuantizationConfig>) {
        self.0.push((scope, config));
    }

    /// Names, then types, then operators; each in the order in which they were set.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&Scope, Option<&QuantizationConfig>)> {
        let mut order: Vec<_> = self.0.iter().map(|(scope, config)| (scope, config.as_ref())).collect();
        order.sort_by_key(|(scope, _)| scope.rank());
        order.into_iter()
    }

    pub(super) fn in_any_module(&self, graph: &Graph, id: NodeId) -> bool {
        self.0.iter().any(|(scope, _)| !scope.is_operator() && scope.contains(graph, id))
    }

    /// Whether a scope decides about a node: operators do not where a module does.
    pub(super) fn covers(&self, graph: &Graph, scope: &Scope, id: NodeId) -> bool {
        scope.contains(graph, id) && !(scope.is_operator() && self.in_any_module(graph, id))
    }

    /// Refuses configurations that contradict themselves or each other.
    pub(super) fn check(&self) -> Result<(), PrepareError> {
        for (at, (scope, config)) in self.0.iter().enumerate() {
            if let Some(config) = config {
                config.check(&scope.to_string())?;
            }
            if self.0[..at].iter().any(|(other, before)| other == scope && before != config) {
                let problem = "is given two different configurations".to_owned();
                return Err(PrepareError::Config { config: scope.to_string(), problem });
            }
        }
        Ok(())
    }

    /// Refuses a scope without a node.
    pub(super) fn check_matches(&self, graph: &Graph) -> Result<(), PrepareError> {
        for (scope, _) in &self.0 {
            let computes = |id: NodeId| !matches!(graph.node(id).op, Op::Input(Input) | Op::Constant(_));
            if graph.iter().any(|(id, _)| computes(id) && scope.contains(graph, id)) {
                continue;
            }
            let nodes = graph.iter().filter(|(id, _)| computes(*id)).map(|(_, node)| node);
            let (wanted, names): (_, BTreeSet<&str>) = match scope {
                Scope::Name(wanted) => (wanted, nodes.flat_map(|node| paths(&node.name)).collect()),
                Scope::Type(wanted) => {
                    let types = nodes.filter_map(|node| node.op.module_type());
                    (wanted, types.chain(graph.modules().values().map(String::as_str)).collect())
                }
                Scope::Operator(wanted) => (wanted, nodes.map(|node| node.op.name()).collect()),
            };
            return Err(PrepareError::NoMatch {
                filter: scope.to_string(),
                near_names: nearest(wanted, &names).into_iter().map(str::to_owned).collect(),
            });
        }
        Ok(())
    }
}
