//! Functions that a file defines itself, and branches of `If`.

use super::super::proto::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, attribute_type, data_type,
};
use super::*;
use crate::onnx::build::{floats, ints, small, value};

const DOMAIN: &str = "own";

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let [input, output] = [inputs, outputs].map(|names| names.iter().map(|&name| name.to_owned()).collect());
    NodeProto { input, output, op_type: op_type.to_owned(), ..NodeProto::default() }
}

fn call(function: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: DOMAIN.to_owned(), name: format!("call of {function}"), ..node(function, inputs, outputs) }
}

fn number(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f, r#type: attribute_type::FLOAT, ..AttributeProto::default() }
}

/// An attribute whose value is that of an attribute of the call.
fn reference(name: &str, of: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: of.to_owned(), ..number(name, 0.0) }
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    let [input, output] = [inputs, outputs].map(|names| names.iter().map(|&name| name.to_owned()).collect());
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 18 }];
    let (name, domain) = (name.to_owned(), DOMAIN.to_owned());
    FunctionProto { name, input, output, node: nodes, opset_import, domain, ..FunctionProto::default() }
}

/// A model of `x [batch, 2]` to `y` with these functions and nodes.
fn model(functions: Vec<FunctionProto>, nodes: Vec<NodeProto>) -> Build {
    let mut build = Build::new(18).input("x", &["batch", "2"]).output("y");
    build.model.functions = functions;
    build.graph().node = nodes;
    build
}

fn check(build: &Build, expected: &[f32]) {
    let x = tensor(&[2, 2], &[-1.0, 2.0, 3.0, -4.0]);
    assert_values(&run(&build.done(&[]), &[x]), &[2, 2], expected);
}

fn refused(build: &Build, expected: &str) {
    let error = build.import(&[]).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}, not {expected}");
}

/// `max(x, 0) + slope · min(x, 0)`, with a slope of 0.5 if the call has none, plus a bias if the call has one.
fn leaky() -> FunctionProto {
    let mut inner = node("LeakyRelu", &["a"], &["b"]);
    inner.attribute = vec![reference("alpha", "slope")];
    let mut leaky = function("leaky", &["a", "bias"], &["c"], vec![inner, node("Sum", &["b"], &["c"])]);
    leaky.attribute_proto = vec![number("slope", 0.5)];
    leaky
}

#[test]
fn functions_are_nodes_with_the_attributes_of_a_call() {
    check(&model(vec![leaky()], vec![call("leaky", &["x"], &["y"])]), &[-0.5, 2.0, 3.0, -2.0]);
    let mut given = call("leaky", &["x"], &["y"]);
    given.attribute = vec![number("slope", 0.25)];
    check(&model(vec![leaky()], vec![given]), &[-0.25, 2.0, 3.0, -1.0]);
    // An attribute without a default that the call lacks is left out: the slope is that of LeakyRelu.
    let mut without = leaky();
    without.attribute_proto.clear();
    without.attribute = vec!["slope".to_owned()];
    check(&model(vec![without], vec![call("leaky", &["x"], &["y"])]), &[-0.01, 2.0, 3.0, -0.04]);
    // A function has names of its own, functions call functions, and an operator of the same name is another one.
    let twice = function("Relu", &["y"], &["x"], vec![call("leaky", &["y"], &["t"]), call("leaky", &["t"], &["x"])]);
    let nodes = vec![call("Relu", &["x"], &["r"]), node("Relu", &["r"], &["s"]), node("Add", &["r", "s"], &["y"])];
    let build = model(vec![twice, leaky()], nodes);
    check(&build, &[-0.25, 4.0, 6.0, -1.0]);
    let names: Vec<String> = build.done(&[]).nodes().iter().map(|node| node.name.clone()).collect();
    assert!(names.iter().any(|name| name.starts_with("call of Relu.")), "{names:?}");
    // An input that the call lacks is missing inside.
    let clip = function("clip", &["a", "min", "max"], &["b"], vec![node("Clip", &["a", "min", "max"], &["b"])]);
    let zero = NodeProto { attribute: vec![number("value_float", 0.0)], ..node("Constant", &[], &["zero"]) };
    let nodes = vec![zero, call("clip", &["x", "", "zero"], &["y"])];
    check(&model(vec![clip], nodes), &[-1.0, 0.0, 0.0, -4.0]);
}

#[test]
fn functions_without_bounds_are_refused() {
    let inside = |name: &str, inner: &str| function(name, &["a"], &["b"], vec![call(inner, &["a"], &["b"])]);
    let circle = vec![inside("f", "g"), inside("g", "f")];
    refused(&model(circle, vec![call("f", &["x"], &["y"])]), "contain each other more than 32 deep");
    // Thirty functions that each call the next one four times: 4^30 nodes.
    let four = |name: &str, inner: &str| {
        let nodes = (0..4).map(|i| call(inner, &[["a", "b", "c", "d"][i]], &[["b", "c", "d", "e"][i]])).collect();
        function(name, &["a"], &["e"], nodes)
    };
    let mut many: Vec<FunctionProto> = (0..30).map(|i| four(&format!("f{i}"), &format!("f{}", i + 1))).collect();
    many.push(function("f30", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])]));
    let start = std::time::Instant::now();
    assert!(model(many, vec![call("f0", &["x"], &["y"])]).import(&[]).is_err());
    assert!(start.elapsed().as_secs() < 60);
    refused(&model(vec![leaky()], vec![call("leaky", &["x", "x", "x"], &["y"])]), "3 inputs to a function of 2");
    let mut new = leaky();
    new.opset_import[0].version = 27;
    refused(&model(vec![new], vec![call("leaky", &["x"], &["y"])]), "its function is written for opset 27");
    let unknown = function("f", &["a"], &["b"], vec![node("Hermite", &["a"], &["b"])]);
    refused(
        &model(vec![unknown], vec![call("f", &["x"], &["y"])]),
        "call of f/b (Hermite): the operator is not supported",
    );
    let no_value = function("f", &["a"], &["b"], vec![node("Neg", &["c"], &["b"])]);
    refused(&model(vec![no_value], vec![call("f", &["x"], &["y"])]), "c, which nothing in the file gives");
    refused(&model(vec![leaky()], vec![call("other", &["x"], &["y"])]), "operators of domain own are not supported");
}

fn branch(nodes: Vec<NodeProto>, output: &str) -> GraphProto {
    GraphProto { node: nodes, output: vec![value(output, data_type::FLOAT, &[])], ..GraphProto::default() }
}

fn graph(name: &str, graph: GraphProto) -> AttributeProto {
    let (name, g) = (name.to_owned(), Some(Box::new(graph)));
    AttributeProto { name, g, r#type: attribute_type::GRAPH, ..AttributeProto::default() }
}

fn choice(condition: &str, yes: GraphProto, no: GraphProto) -> NodeProto {
    let attribute = vec![graph("then_branch", yes), graph("else_branch", no)];
    NodeProto { attribute, ..node("If", &[condition], &["y"]) }
}

/// `-x` or `2 · r`, where only the branches read `r`.
fn branches(condition: &str) -> Vec<NodeProto> {
    let mut two = branch(vec![node("Mul", &["r", "two"], &["t"])], "t");
    two.initializer = vec![floats("two", &[], &[2.0])];
    vec![node("Relu", &["x"], &["r"]), choice(condition, branch(vec![node("Neg", &["x"], &["t"])], "t"), two)]
}

#[test]
fn branches_of_known_conditions() {
    for (holds, expected) in [(1, [1.0, -2.0, -3.0, 4.0]), (0, [0.0, 4.0, 6.0, 0.0])] {
        let mut build = model(Vec::new(), branches("c"));
        build.graph().initializer.push(small("c", data_type::BOOL, &[], &[holds]));
        check(&build, &expected);
        // Inside a function, and a branch inside a branch.
        let inner = branch(vec![choice("c", branch(branches("c"), "y"), branch(vec![], "x"))], "y");
        let inner = if holds == 1 { inner } else { branch(branches("c"), "y") };
        let mut nested = model(Vec::new(), vec![choice("c", inner.clone(), inner)]);
        nested.graph().initializer.push(small("c", data_type::BOOL, &[], &[holds]));
        check(&nested, &expected);
    }
}

#[test]
fn branches_that_only_a_run_can_choose() {
    let with_condition = |nodes, dims: &[&str]| {
        let mut build = model(Vec::new(), nodes);
        build.graph().input.push(value("c", data_type::BOOL, dims));
        build
    };
    let graph = with_condition(branches("c"), &["1"]).done(&[]);
    let x = tensor(&[2, 2], &[-1.0, 2.0, 3.0, -4.0]);
    for (holds, expected) in [(1, [1.0, -2.0, -3.0, 4.0]), (0, [0.0, 4.0, 6.0, 0.0])] {
        let condition = Tensor::from_i32(&[1], vec![holds]).expect("one value");
        assert_values(&run(&graph, &[x.clone(), condition]), &[2, 2], &expected);
    }
    refused(&with_condition(branches("c"), &["batch"]), "its condition has shape [rows], expected one value");
    refused(&with_condition(branches("c"), &["2"]), "its condition has shape [2], expected one value");
    let mut nodes = branches("c");
    let other = branch(vec![node("ReduceSum", &["x", "last"], &["t"])], "t");
    nodes[1] = choice("c", branch(vec![node("Neg", &["x"], &["u"])], "u"), other);
    let mut build = with_condition(nodes, &["1"]);
    build.graph().initializer = vec![ints("last", &[1], &[1])];
    refused(&build, "its branches give the shapes [rows, 2] and [rows, 1]");
}

#[test]
fn branches_that_are_refused() {
    let known = |nodes| {
        let mut build = model(Vec::new(), nodes);
        build.graph().initializer.push(small("c", data_type::BOOL, &[], &[1]));
        build
    };
    let negative = || branch(vec![node("Neg", &["x"], &["t"])], "t");
    let mut lacks = choice("c", negative(), negative());
    lacks.attribute.remove(1);
    refused(&known(vec![lacks]), "it has no else_branch");
    let mut with_input = negative();
    with_input.input.push(value("z", data_type::FLOAT, &[]));
    refused(&known(vec![choice("c", with_input, negative())]), "its branch has an input z");
    refused(&known(vec![choice("nothing", negative(), negative())]), "nothing");
    let reads = branch(vec![node("Neg", &["nothing"], &["t"])], "t");
    refused(&known(vec![choice("c", reads, negative())]), "reads nothing, which nothing in the file gives");
    let mut condition = node("If", &[""], &["y"]);
    condition.attribute = choice("c", negative(), negative()).attribute;
    refused(&known(vec![condition]), "it has no condition");
    let mut two = negative();
    two.output.push(value("u", data_type::FLOAT, &[]));
    two.node.push(node("Relu", &["x"], &["u"]));
    let mut uneven = model(Vec::new(), vec![choice("c", two, negative())]);
    uneven.graph().input.push(value("c", data_type::BOOL, &["1"]));
    refused(&uneven, "its branches have 2 and 1 results");
    refused(&model(vec![leaky(), leaky()], vec![call("leaky", &["x"], &["y"])]), "two values are called leaky");
    let unknown = branch(vec![node("Hermite", &["x"], &["t"])], "t");
    refused(&known(vec![choice("c", unknown, negative())]), "(Hermite): the operator is not supported");
}
