//! Blocks at coordinates that do not fit the tensor.

use enfold::interp::Interpreter;
use enfold::ops::{GatherNd, Op, ScatterNd, ScatterReduction};
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu, lower};

use super::integers::node;
use super::{check, f32s, row};

#[test]
fn blocks() {
    let floats = |dims: &[usize]| (DType::F32, Shape::batched(dims));
    let ids = |dims: &[usize]| (DType::I32, Shape::batched(dims));
    let fixed = |dtype, dims: &[usize]| (dtype, Shape::fixed(dims));
    let gather = |batch_dims| Op::GatherNd(GatherNd { batch_dims });
    let scatter = |reduction| Op::ScatterNd(ScatterNd { batch_dims: 1, reduction });
    let replace = || scatter(ScatterReduction::Replace);
    assert!(node(gather(1), &[floats(&[3]), ids(&[2, 1])]).is_ok());
    assert!(node(replace(), &[floats(&[3]), ids(&[2, 1]), floats(&[2])]).is_ok());
    check(vec![
        row("ids of floats", node(gather(1), &[floats(&[3]), floats(&[2, 1])]), &["y:", "input 1", "f32", "i32"]),
        row("int8 values", node(gather(1), &[(DType::I8, Shape::rows(3)), ids(&[2, 1])]), &["y:", "input 0", "i8"]),
        row("blocks along the batch", node(gather(0), &[floats(&[3]), ids(&[2, 1])]), &["y:", "along the batch"]),
        row("no coordinates", node(gather(1), &[floats(&[3]), ids(&[0])]), &["y:", "coordinates 0", "from 1 to 8"]),
        row("ids of rows only", node(gather(0), &[fixed(DType::F32, &[3]), ids(&[])]), &["y:", "ids has 1 axes"]),
        row("more coordinates than axes", node(gather(1), &[floats(&[3]), ids(&[2])]), &["y:", "1 with 2 coordinates"]),
        row("a batch of all axes", node(gather(2), &[floats(&[3]), ids(&[3, 1])]), &["y:", "2 with 1 coordinates"]),
        row("another batch", node(gather(2), &[floats(&[3, 4]), ids(&[2, 1])]), &["y:", "is 2, expected 3"]),
        row(
            "rows of one only",
            node(gather(1), &[fixed(DType::F32, &[2, 3]), ids(&[4, 1])]),
            &["y:", "[2, 3]", "[rows, 4, 1]"],
        ),
        row("nothing to select", node(gather(1), &[floats(&[0]), ids(&[2, 1])]), &["y:", "axis of length 0"]),
        row(
            "updates of another shape",
            node(replace(), &[floats(&[3]), ids(&[2, 1]), floats(&[3])]),
            &["y:", "[rows, 2]", "[rows, 3]"],
        ),
        row(
            "updates of another type",
            node(replace(), &[floats(&[3]), ids(&[2, 1]), ids(&[2])]),
            &["y:", "input 2", "i32", "f32"],
        ),
        row(
            "a sum of integers",
            node(scatter(ScatterReduction::Add), &[ids(&[3]), ids(&[2, 1]), ids(&[2])]),
            &["y:", "reduction add", "replace"],
        ),
        row(
            "updates of each row in one tensor",
            node(
                ScatterNd { batch_dims: 0, reduction: ScatterReduction::Replace }.into(),
                &[fixed(DType::F32, &[3]), ids(&[1]), floats(&[])],
            ),
            &["y:", "[rows]"],
        ),
    ]);
}

/// An id outside its axis is an error of the interpreter and of the CPU engine.
#[test]
fn ids_outside_their_axis() {
    let graph = |scatters: bool| {
        let mut g = GraphBuilder::new();
        let x = g.constant("x", f32s(&[2, 3], 1.0)).expect("a constant");
        let ids = g.typed_input("ids", Shape::fixed(&[2, 2]), DType::I32).expect("ids");
        let updates = g.input("updates", Shape::fixed(&[2])).expect("updates");
        let y = if scatters {
            g.node("y", ScatterNd { batch_dims: 0, reduction: ScatterReduction::Add }, &[x, ids, updates])
        } else {
            let y = g.node("y", GatherNd { batch_dims: 0 }, &[x, ids]).expect("blocks");
            g.add("sum", y, updates)
        };
        g.finish([y.expect("a node")]).expect("a graph")
    };
    let on_cpu = |graph: &Graph, inputs: &[Tensor]| {
        cpu::Engine::new(&lower(graph).expect("a program")).expect("an engine").run(inputs)
    };
    let mut table = Vec::new();
    for graph in [graph(false), graph(true)] {
        for (id, text) in [(3, "id 3"), (-4, "id -4"), (i32::MIN, "id -2147483648"), (i32::MAX, "id 2147483647")] {
            let ids = |id| Tensor::from_i32(&[2, 2], vec![1, -3, -2, id]).expect("four");
            let inputs = |id| [ids(id), f32s(&[2], 1.0)];
            assert_eq!(on_cpu(&graph, &inputs(2)).ok(), Interpreter::new(&graph).run(&inputs(2)).ok());
            let run = Interpreter::new(&graph).run(&inputs(id));
            table.push(row("an id outside", run, &["y:", "element 3", text, "3 rows"]));
            let run = on_cpu(&graph, &inputs(id));
            table.push(row("an id outside on the CPU", run, &["y:", "element 3", text, "rows 0 to 2"]));
        }
    }
    check(table);
}
