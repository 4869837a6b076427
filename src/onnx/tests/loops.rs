//! `Loop` and `Scan`, unrolled.

use super::super::proto::{AttributeProto, GraphProto, NodeProto, attribute_type, data_type};
use super::*;
use crate::onnx::build::{floats, ints, small, value};

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let [input, output] = [inputs, outputs].map(|names| names.iter().map(|&name| name.to_owned()).collect());
    NodeProto { input, output, op_type: op_type.to_owned(), ..NodeProto::default() }
}

fn body(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> AttributeProto {
    let [input, output] =
        [inputs, outputs].map(|names| names.iter().map(|name| value(name, data_type::FLOAT, &[])).collect());
    let g = Some(Box::new(GraphProto { node: nodes, input, output, ..GraphProto::default() }));
    AttributeProto { name: "body".to_owned(), g, r#type: attribute_type::GRAPH, ..AttributeProto::default() }
}

fn with(mut node: NodeProto, attributes: Vec<AttributeProto>) -> NodeProto {
    node.attribute = attributes;
    node
}

fn list(name: &str, ints: &[i64]) -> AttributeProto {
    crate::onnx::attributes::ints_attribute(name, ints.to_vec())
}

fn int(name: &str, i: i64) -> AttributeProto {
    crate::onnx::attributes::int_attribute(name, i)
}

/// A model of `x [batch, 3]`.
fn model(node: NodeProto) -> Build {
    let mut build = Build::new(18).input("x", &["batch", "3"]);
    build.graph().initializer = vec![
        ints("m", &[], &[3]),
        ints("endless", &[], &[i64::MAX]),
        ints("limit", &[], &[1]),
        small("yes", data_type::BOOL, &[], &[1]),
        floats("zero", &[1], &[0.0]),
    ];
    build.graph().node = vec![node];
    build
}

/// Each iteration adds `x` and its number; it ends behind number 1 if the condition is that.
fn sum(inputs: &[&str], outputs: &[&str], condition: &str) -> NodeProto {
    let mut cast = node("Cast", &["i"], &["f"]);
    cast.attribute = vec![int("to", 1)];
    let nodes = vec![
        cast,
        node("Add", &["v", "x"], &["a"]),
        node("Add", &["a", "f"], &["b"]),
        node("Less", &["i", "limit"], &["less"]),
        node("Identity", &["c"], &["same"]),
        node("Identity", &["b"], &["seen"]),
    ];
    with(node("Loop", inputs, outputs), vec![body(&["i", "c", "v"], nodes, &[condition, "b", "seen"])])
}

const X: [f32; 6] = [1.0, 2.0, 3.0, -1.0, 0.5, 4.0];

fn refused(build: &Build) -> String {
    build.import(&[]).expect_err("refused").to_string()
}

#[test]
fn loops_of_known_length() {
    let x = tensor(&[2, 3], &X);
    let of = |times: f32, more: f32| X.map(|x| x * times + more).to_vec();
    let graph = model(sum(&["m", "yes", "zero"], &["y", ""], "same")).output("y").done(&[]);
    assert_values(&run(&graph, std::slice::from_ref(&x)), &[2, 3], &of(3.0, 3.0));
    // The condition of the second iteration ends it.
    let graph = model(sum(&["m", "", "zero"], &["y", ""], "less")).output("y").done(&[]);
    assert_values(&run(&graph, std::slice::from_ref(&x)), &[2, 3], &of(2.0, 1.0));
    // Values of all iterations, with the batch behind their number.
    let mut scanned = model(sum(&["m", "", "zero"], &["_", "s"], "same"));
    let mut transpose = node("Transpose", &["s"], &["y"]);
    transpose.attribute = vec![list("perm", &[1, 0, 2])];
    scanned.graph().node.push(transpose);
    let y = run(&scanned.output("y").done(&[]), &[x]);
    let sums = [of(1.0, 0.0), of(2.0, 1.0), of(3.0, 3.0)];
    let wanted: Vec<f32> =
        (0..2).flat_map(|row| sums.iter().flat_map(move |s| s[3 * row..3 * row + 3].to_vec())).collect();
    assert_values(&y, &[2, 3, 3], &wanted);
}

#[test]
fn loops_that_are_refused() {
    let text = refused(&model(sum(&["endless", "", "zero"], &["y", ""], "same")).output("y"));
    assert!(text.contains("it has 9223372036854775807 iterations; at most 1024 are supported"), "{text}");
    let text = refused(&model(sum(&["", "yes", "zero"], &["y", ""], "same")).output("y"));
    assert!(text.contains("it has an unknown number of iterations; at most 1024 are supported"), "{text}");
    let mut given = model(sum(&["n", "", "zero"], &["y", ""], "same"));
    given.graph().input.push(value("n", data_type::INT64, &[]));
    let text = refused(&given.output("y"));
    assert!(text.contains("its number of iterations [] is computed at run time"), "{text}");
    let condition = with(
        node("Loop", &["m", "", "zero"], &["y"]),
        vec![body(
            &["i", "c", "v"],
            vec![node("Add", &["v", "x"], &["b"]), node("Greater", &["x", "v"], &["d"])],
            &["d", "b"],
        )],
    );
    let text = refused(&model(condition).output("y"));
    assert!(text.contains("the condition of its iteration 0 is computed at run time"), "{text}");
    let text = refused(&model(sum(&["m", "", ""], &["y", ""], "same")).output("y"));
    assert!(text.contains("one of its initial values is missing"), "{text}");
    let hides = with(node("Loop", &["m", "", "zero"], &["y"]), vec![body(&["i", "c", "x"], Vec::new(), &["c", "x"])]);
    let text = refused(&model(hides).output("y"));
    assert!(text.contains("its body has an input x, which is the name of a value around it"), "{text}");
    // A node that is not supported is listed once.
    let unknown = with(
        node("Loop", &["m", "", "zero"], &["y"]),
        vec![body(&["i", "c", "v"], vec![node("Hermite", &["v"], &["b"])], &["c", "b"])],
    );
    let text = refused(&model(unknown).output("y"));
    assert!(text.starts_with("1 node cannot be imported:\n  y/0/b (Hermite): the operator"), "{text}");
}

/// Loops inside of loops, of empty bodies and others, end in bounded time.
#[test]
fn nested_loops_end() {
    let start = std::time::Instant::now();
    for inner in [Vec::new(), vec![node("Add", &["v", "v"], &["w"])]] {
        let last = if inner.is_empty() { "v" } else { "w" };
        let mut nodes = inner;
        let mut result = last.to_owned();
        for depth in 0..6 {
            let [i, c, v] = ["i", "c", "v"].map(|name| format!("{name}{depth}"));
            let bound = if depth == 0 { "v".to_owned() } else { v };
            let inputs = [i.as_str(), c.as_str(), bound.as_str()];
            let name = format!("r{depth}");
            let of_body = body(&inputs, nodes, &[c.as_str(), result.as_str()]);
            let around = if depth == 5 { "zero".to_owned() } else { format!("v{}", depth + 1) };
            nodes = vec![with(node("Loop", &["k", "", &around], &[&name]), vec![of_body])];
            result = name;
        }
        let mut build = model(nodes.remove(0));
        build.graph().initializer.push(ints("k", &[], &[1000]));
        let text = refused(&build.output("r5"));
        assert!(text.contains("constants would exceed"), "{text}");
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn scans() {
    // The state is the sum of the columns so far, and each iteration shows it twice.
    let nodes = vec![node("Add", &["s", "p"], &["t"]), node("Add", &["t", "t"], &["u"])];
    let scan = |attributes: Vec<AttributeProto>| {
        let all = [vec![body(&["s", "p"], nodes.clone(), &["t", "u"]), int("num_scan_inputs", 1)], attributes].concat();
        model(with(node("Scan", &["zero", "x"], &["last", "y"]), all))
    };
    let x = tensor(&[2, 3], &X);
    let forward = scan(vec![list("scan_input_axes", &[1]), list("scan_output_axes", &[1])]).output("y");
    let wanted = [2.0, 6.0, 12.0, -2.0, -1.0, 7.0];
    assert_values(&run(&forward.done(&[]), std::slice::from_ref(&x)), &[2, 3], &wanted);
    let both = vec![list("scan_input_directions", &[1]), list("scan_output_directions", &[1])];
    let backward = [vec![list("scan_input_axes", &[1]), list("scan_output_axes", &[-1])], both].concat();
    let wanted = [12.0, 10.0, 6.0, 7.0, 9.0, 8.0];
    assert_values(&run(&scan(backward).output("y").done(&[]), &[x]), &[2, 3], &wanted);
    let text = refused(&scan(Vec::new()).output("last"));
    assert!(text.contains("it works along the batch") && text.contains("give batch a length"), "{text}");
    let text = refused(&scan(vec![list("scan_input_axes", &[1, 1])]).output("last"));
    assert!(text.contains("its scan_input_axes are 2, expected 1"), "{text}");
    let mut long = scan(vec![list("scan_input_axes", &[1])]).output("last");
    long.graph().input[0] = value("x", data_type::FLOAT, &["batch", "2000"]);
    let text = refused(&long);
    assert!(text.contains("it has 2000 iterations; supported are from 1 to 1024"), "{text}");
}
