//! A lint of float arithmetic on naga's form of a shader.

use std::collections::HashSet;

use enfold::gpu::shaders::Shader;
use naga::Statement;
use naga::back;
use naga::valid::FunctionInfo;
use naga::{
    BinaryOperator, Block, Expression, Function, Handle, Literal, MathFunction, Module, ScalarKind, ShaderStage,
};

use super::parse;

/// Float operations that an entry point reaches, with these values of the override constants, and that devices may round differently,
/// contract or reorder. Equation 11 allows:
///
/// - sums, differences and products as arguments of `keep`, which hides them from the compiler;
/// - other products, if no sum, difference or product takes their result;
/// - products in `plus_products` of rounded factors, which are exact (`REPRODUCIBLE`);
/// - comparisons, selections, conversions, and functions whose result is exact;
/// - anything in `normal_quotient` and `root`, whose guesses do not decide a bit.
pub(super) fn inexact(wgsl: &str, shader: &Shader, entry: &str, constants: &[(&str, f64)]) -> Vec<String> {
    let (module, info) = parse(wgsl, shader);
    let constants = constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let stage = Some((ShaderStage::Compute, entry));
    let (module, info) = back::pipeline_constants::process_overrides(&module, &info, stage, &constants)
        .unwrap_or_else(|e| panic!("{entry}: {e}"));
    let at = module.entry_points.iter().position(|e| e.name == entry).expect("an entry point");
    let mut lint = Lint::new(&module, &info);
    lint.exact_products = constants.get("REPRODUCIBLE") == Some(&1.0);
    // What is a bare product spreads from callers to callees and back, until nothing changes.
    loop {
        let before = lint.bare.len();
        lint.found.clear();
        lint.visited.clear();
        lint.function(None, &module.entry_points[at].function, info.get_entry_point(at));
        if lint.bare.len() == before {
            return lint.found;
        }
    }
}

/// A place that may hold a bare product: one that did not pass through `keep`.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Argument(Option<Handle<Function>>, u32),
    Variable(Option<Handle<Function>>, Handle<naga::LocalVariable>),
    Result(Handle<Function>),
}

struct Lint<'m> {
    module: &'m Module,
    info: &'m naga::valid::ModuleInfo,
    bare: HashSet<Place>,
    visited: HashSet<Handle<Function>>,
    found: Vec<String>,
    /// Whether factors are rounded, so that products are exact.
    exact_products: bool,
}

/// The functions whose operations only guess.
pub(super) const GUESSES: [&str; 2] = ["normal_quotient", "root"];

impl<'m> Lint<'m> {
    fn new(module: &'m Module, info: &'m naga::valid::ModuleInfo) -> Self {
        Self { module, info, bare: HashSet::new(), visited: HashSet::new(), found: Vec::new(), exact_products: false }
    }

    fn function(&mut self, own: Option<Handle<Function>>, function: &'m Function, info: &'m FunctionInfo) {
        if own.is_some_and(|own| !self.visited.insert(own)) {
            return;
        }
        let name = function.name.as_deref().unwrap_or("entry");
        if GUESSES.contains(&name) {
            return;
        }
        Walk { lint: self, own, function, info, kept: HashSet::new(), emitted: Vec::new() }.run(name);
    }
}

/// The walk through one function.
struct Walk<'l, 'm> {
    lint: &'l mut Lint<'m>,
    own: Option<Handle<Function>>,
    function: &'m Function,
    info: &'m FunctionInfo,
    /// The arguments of `keep`.
    kept: HashSet<Handle<Expression>>,
    emitted: Vec<Handle<Expression>>,
}

impl<'m> Walk<'_, 'm> {
    fn run(mut self, name: &str) {
        self.block(&self.function.body);
        for handle in std::mem::take(&mut self.emitted) {
            let expression = &self.function.expressions[handle];
            if self.is_float(handle) && !self.is_exact(handle, expression) {
                self.lint.found.push(format!("{name}: {expression:?}"));
            }
        }
    }

    fn is_float(&self, handle: Handle<Expression>) -> bool {
        let inner = self.info[handle].ty.inner_with(&self.lint.module.types);
        inner.scalar_kind() == Some(ScalarKind::Float)
    }

    fn is_exact(&self, handle: Handle<Expression>, expression: &Expression) -> bool {
        match expression {
            &Expression::Binary { op: BinaryOperator::Add | BinaryOperator::Subtract, left, right } => {
                self.kept.contains(&handle) && !self.is_bare(left) && !self.is_bare(right)
            }
            &Expression::Binary { op: BinaryOperator::Multiply, left, right } => {
                !self.is_bare(left) && !self.is_bare(right)
            }
            Expression::Binary { .. } | Expression::Derivative { .. } => false,
            Expression::Math { fun, .. } => {
                use MathFunction::{Abs, Ceil, Clamp, Floor, Max, Min, Round};
                matches!(fun, Round | Floor | Ceil | Clamp | Max | Min | Abs)
            }
            _ => true,
        }
    }

    /// Whether a value may be a product that did not pass through `keep`, or a part of one.
    fn is_bare(&self, handle: Handle<Expression>) -> bool {
        match &self.function.expressions[handle] {
            Expression::Binary { op: BinaryOperator::Multiply, .. } => {
                let exact = self.lint.exact_products && self.function.name.as_deref() == Some("plus_products");
                self.is_float(handle) && !exact
            }
            // A compiler sees through a cast of bits.
            &Expression::As { expr, convert: None, .. } => self.is_bare(expr),
            &Expression::FunctionArgument(at) => self.lint.bare.contains(&Place::Argument(self.own, at)),
            &Expression::CallResult(function) => self.lint.bare.contains(&Place::Result(function)),
            &Expression::Load { pointer } => self
                .variable(pointer)
                .is_some_and(|variable| self.lint.bare.contains(&Place::Variable(self.own, variable))),
            Expression::Compose { components, .. } => components.iter().any(|&part| self.is_bare(part)),
            &(Expression::Access { base, .. } | Expression::AccessIndex { base, .. }) => self.is_bare(base),
            &Expression::Splat { value, .. } => self.is_bare(value),
            &Expression::Swizzle { vector, .. } => self.is_bare(vector),
            &Expression::Unary { expr, .. } => self.is_bare(expr),
            &Expression::Select { accept, reject, .. } => self.is_bare(accept) || self.is_bare(reject),
            &Expression::Math { arg, arg1, arg2, .. } => {
                [Some(arg), arg1, arg2].into_iter().flatten().any(|part| self.is_bare(part))
            }
            _ => false,
        }
    }

    fn variable(&self, pointer: Handle<Expression>) -> Option<Handle<naga::LocalVariable>> {
        match self.function.expressions[pointer] {
            Expression::LocalVariable(variable) => Some(variable),
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => self.variable(base),
            _ => None,
        }
    }

    fn mark(&mut self, place: Place, value: Handle<Expression>) {
        if self.is_bare(value) {
            self.lint.bare.insert(place);
        }
    }

    fn block(&mut self, block: &'m Block) {
        for statement in block {
            match statement {
                Statement::Emit(range) => self.emitted.extend(range.clone()),
                Statement::Call { function, arguments, .. } => self.call(*function, arguments),
                Statement::Return { value: Some(value) } => {
                    if let Some(own) = self.own {
                        self.mark(Place::Result(own), *value);
                    }
                }
                Statement::Store { pointer, value } => {
                    if let Some(variable) = self.variable(*pointer) {
                        self.mark(Place::Variable(self.own, variable), *value);
                    }
                }
                Statement::Block(inner) => self.block(inner),
                Statement::If { condition, accept, reject } => {
                    let known = self.known(*condition);
                    if known != Some(false) {
                        self.block(accept);
                    }
                    if known != Some(true) {
                        self.block(reject);
                    }
                }
                Statement::Loop { body, continuing, .. } => {
                    self.block(body);
                    self.block(continuing);
                }
                Statement::Switch { cases, .. } => cases.iter().for_each(|case| self.block(&case.body)),
                _ => {}
            }
        }
    }

    fn call(&mut self, callee: Handle<Function>, arguments: &[Handle<Expression>]) {
        let function = &self.lint.module.functions[callee];
        if matches!(function.name.as_deref(), Some("keep" | "keep_four")) {
            self.kept.extend(arguments);
            return;
        }
        for (at, &argument) in arguments.iter().enumerate() {
            self.mark(Place::Argument(Some(callee), at as u32), argument);
        }
        let info = &self.lint.info[callee];
        self.lint.function(Some(callee), function, info);
    }

    /// The value of a condition. Overrides are constants by now: what they rule out is not reachable.
    fn known(&self, condition: Handle<Expression>) -> Option<bool> {
        let expression = match self.function.expressions[condition] {
            Expression::Constant(constant) => {
                &self.lint.module.global_expressions[self.lint.module.constants[constant].init]
            }
            ref expression => expression,
        };
        match expression {
            Expression::Literal(Literal::Bool(known)) => Some(*known),
            _ => None,
        }
    }
}
