//! Quotients, sums, clamps, slices, and integers as floats that cannot be.

use enfold::graph::GraphError;
use enfold::ops::IntegerType::U8;
use enfold::ops::{Clamp, Div, Int32, Int32Op, Mask, Op, OpError, Slice, Sum, ToFloat, ToInteger, Where};
use enfold::program::{ProgramError, StepOp, ValueType};
use enfold::values::DType;
use enfold::{Error, GraphBuilder, Shape, Tensor, cpu, interp, lower};

use super::integers::{node, program};
use super::{check, row};

const LESS: Op = Op::Int32(Int32 { op: Int32Op::Less, checked: false });

#[test]
fn nodes() {
    let f32s = |dims: &[usize]| (DType::F32, Shape::batched(dims));
    let ids = |dims: &[usize]| (DType::I32, Shape::batched(dims));
    let slice = |axis, start, end| Op::Slice(Slice { axis, start, end });
    let clamp = |min, max| Op::Clamp(Clamp { min, max });
    // Valid operators are built.
    for (op, input) in [
        (slice(1, 0, 3), ids(&[3])),
        (slice(1, 3, 3), f32s(&[3])),
        (clamp(1.0, 1.0), f32s(&[3])),
        (clamp(f32::NEG_INFINITY, f32::INFINITY), f32s(&[3])),
        (Op::ToFloat(ToFloat), ids(&[3])),
        (Op::Sum(Sum { axis: 1, checked: false }), f32s(&[3])),
        (Op::Sum(Sum { axis: 1, checked: false }), ids(&[3])),
        (Op::ToInteger(ToInteger { to: U8 }), ids(&[3])),
    ] {
        assert!(node(op.clone(), &[input]).is_ok(), "{op:?}");
    }
    let table = vec![
        row("a slice beyond the axis", node(slice(1, 1, 4), &[f32s(&[3])]), &["y:", "1..4 of 3"]),
        row("a slice that ends before it starts", node(slice(1, 2, 1), &[f32s(&[3])]), &["y:", "2..1 of 3"]),
        row("a slice from far beyond", node(slice(1, usize::MAX, usize::MAX), &[f32s(&[3])]), &["y:", "of 3"]),
        row("a slice of the batch", node(slice(0, 0, 1), &[f32s(&[3])]), &["y:", "batch"]),
        row("a slice of no axis", node(slice(2, 0, 1), &[f32s(&[3])]), &["y:", "axis", "2"]),
        row("a slice of two", node(slice(1, 0, 1), &[f32s(&[3]), f32s(&[3])]), &["y:", "2", "1"]),
        row("a clamp to NaN", node(clamp(f32::NAN, 1.0), &[f32s(&[3])]), &["y:", "NaN..=1"]),
        row("a clamp up to NaN", node(clamp(0.0, f32::NAN), &[f32s(&[3])]), &["y:", "0..=NaN"]),
        row("a clamp to nothing", node(clamp(1.5, 1.0), &[f32s(&[3])]), &["y:", "1.5..=1"]),
        row("a clamp of ids", node(clamp(0.0, 1.0), &[ids(&[3])]), &["y:", "i32", "f32"]),
        row("floats as floats", node(Op::ToFloat(ToFloat), &[f32s(&[3])]), &["y:", "f32", "i32"]),
        row("codes as floats", node(Op::ToFloat(ToFloat), &[(DType::I8, Shape::rows(3))]), &["y:", "i8", "i32"]),
        row("a sum along the batch", node(Op::Sum(Sum { axis: 0, checked: false }), &[f32s(&[3])]), &["y:", "batch"]),
        row("a sum along no axis", node(Op::Sum(Sum { axis: 2, checked: false }), &[f32s(&[3])]), &["y:", "axis", "2"]),
        row(
            "a sum of codes",
            node(Op::Sum(Sum { axis: 1, checked: false }), &[(DType::I8, Shape::rows(3))]),
            &["y:", "i8", "f32"],
        ),
        row(
            "codes as integers",
            node(Op::ToInteger(ToInteger { to: U8 }), &[(DType::I8, Shape::rows(3))]),
            &["y:", "i8", "f32"],
        ),
        row("integers less floats", node(LESS, &[ids(&[3]), f32s(&[3])]), &["y:", "f32", "i32"]),
        row("integers that do not broadcast", node(LESS, &[ids(&[3]), ids(&[2])]), &["y:", "[rows, 3]", "[rows, 2]"]),
        row(
            "a quotient that does not broadcast",
            node(Op::Div(Div), &[f32s(&[3]), f32s(&[2])]),
            &["y:", "[rows, 3]", "[rows, 2]"],
        ),
        row("a choice between two conditions", node(Op::Where(Where), &[f32s(&[3]), f32s(&[3])]), &["y:", "2", "3"]),
        row("a choice by ids", node(Op::Where(Where), &[ids(&[3]), f32s(&[3]), f32s(&[3])]), &["y:", "i32", "f32"]),
        row(
            "a choice that does not broadcast",
            node(Op::Where(Where), &[f32s(&[1]), f32s(&[3]), f32s(&[2])]),
            &["y:", "[rows, 3]", "[rows, 2]"],
        ),
        row(
            "a choice by too many",
            node(Op::Where(Where), &[f32s(&[4]), f32s(&[1]), f32s(&[2])]),
            &["y:", "[rows, 2]", "[rows, 4]"],
        ),
        row("a quotient of one", node(Op::Div(Div), &[f32s(&[3])]), &["y:", "1", "2"]),
        row("a quotient by ids", node(Op::Div(Div), &[f32s(&[3]), ids(&[3])]), &["y:", "i32", "f32"]),
    ];
    covers!(
        table,
        Error::Graph(GraphError::Op { source: OpError::Parameter { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Batch { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Arity { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::DType { .. }, .. }),
        Error::Graph(GraphError::Op { source: OpError::Broadcast { .. }, .. }),
    );
    check(table);
}

#[test]
fn steps() {
    let floats = |dims: &[usize]| (ValueType::F32, Shape::batched(dims));
    let ids = |dims: &[usize]| (ValueType::I32, Shape::batched(dims));
    let slice = |axis, start, end| StepOp::Op(Op::Slice(Slice { axis, start, end }));
    let clamp = |min, max| StepOp::Op(Op::Clamp(Clamp { min, max }));
    let sum = |axis| StepOp::Op(Op::Sum(Sum { axis, checked: false }));
    let div = StepOp::Op(Op::Div(Div));
    let keep = StepOp::Op(Op::Mask(Mask { inverted: true }));
    let less = StepOp::Op(Op::Int32(Int32 { op: Int32Op::Less, checked: false }));
    for (op, values) in [
        (slice(1, 1, 3), vec![ids(&[3]), ids(&[2])]),
        (clamp(0.0, f32::INFINITY), vec![floats(&[3]), floats(&[3])]),
        (sum(1), vec![floats(&[3, 2]), floats(&[2])]),
        (keep.clone(), vec![floats(&[3]), floats(&[1]), floats(&[3])]),
        (div.clone(), vec![floats(&[3]), floats(&[1]), floats(&[3])]),
        (StepOp::Op(Op::ToFloat(ToFloat)), vec![ids(&[3]), floats(&[3])]),
        (StepOp::Op(Op::ToInteger(ToInteger { to: U8 })), vec![floats(&[3]), ids(&[3])]),
        (StepOp::Op(Op::Sum(Sum { axis: 1, checked: true })), vec![ids(&[3, 2]), ids(&[2])]),
        (less.clone(), vec![ids(&[3]), ids(&[1]), ids(&[3])]),
    ] {
        assert!(program(op.clone(), &values).is_ok(), "{op:?}");
    }
    let table = vec![
        row("a slice beyond the axis", program(slice(1, 1, 4), &[floats(&[3]), floats(&[3])]), &["step", "[rows, 3]"]),
        row("a slice to another length", program(slice(1, 0, 2), &[floats(&[3]), floats(&[3])]), &["step"]),
        row("a slice backwards", program(slice(1, 2, 1), &[floats(&[3]), floats(&[1])]), &["step", "[rows, 1]"]),
        row("a slice of no axis", program(slice(2, 0, 1), &[floats(&[3]), floats(&[3])]), &["step"]),
        row("a slice of the batch", program(slice(0, 0, 1), &[floats(&[]), floats(&[])]), &["step", "[rows]"]),
        row("a slice to another type", program(slice(1, 0, 1), &[floats(&[3]), ids(&[1])]), &["v1", "I32", "F32"]),
        row("a clamp to NaN", program(clamp(f32::NAN, 1.0), &[floats(&[3]), floats(&[3])]), &["step", "NaN..=1"]),
        row("a clamp to nothing", program(clamp(2.0, 1.0), &[floats(&[3]), floats(&[3])]), &["step", "2..=1"]),
        row("a clamp to another shape", program(clamp(0.0, 1.0), &[floats(&[3]), floats(&[2])]), &["step"]),
        row(
            "floats as floats",
            program(StepOp::Op(Op::ToFloat(ToFloat)), &[floats(&[3]), floats(&[3])]),
            &["v0", "F32", "I32"],
        ),
        row("a sum along the batch", program(sum(0), &[floats(&[]), (ValueType::F32, Shape::fixed(&[]))]), &["step"]),
        row("a sum of other elements", program(sum(1), &[floats(&[3, 2]), floats(&[3])]), &["step", "[rows, 3, 2]"]),
        row("a keep without a condition", program(keep.clone(), &[floats(&[3]), floats(&[3])]), &["inputs is 1", "2"]),
        row("a keep by ids", program(keep.clone(), &[floats(&[3]), ids(&[3]), floats(&[3])]), &["v1", "I32", "F32"]),
        row("a keep of more", program(keep, &[floats(&[3]), floats(&[1]), floats(&[4])]), &["step", "[rows, 4]"]),
        row("a quotient of one", program(div.clone(), &[floats(&[3]), floats(&[3])]), &["step", "inputs is 1", "2"]),
        row(
            "integers to floats",
            program(StepOp::Op(Op::ToInteger(ToInteger { to: U8 })), &[ids(&[3]), floats(&[3])]),
            &["v1", "F32", "I32"],
        ),
        row(
            "a sum of floats as integers",
            program(StepOp::Op(Op::Sum(Sum { axis: 1, checked: true })), &[floats(&[3]), ids(&[])]),
            &["v1", "I32", "F32"],
        ),
        row(
            "integers less floats",
            program(less.clone(), &[ids(&[3]), floats(&[3]), ids(&[3])]),
            &["v1", "F32", "I32"],
        ),
        row("integers of one", program(less.clone(), &[ids(&[3]), ids(&[3])]), &["inputs is 1", "2"]),
        row("integers of another shape", program(less, &[ids(&[3]), ids(&[1]), ids(&[2])]), &["step", "[rows, 2]"]),
        row("a quotient by ids", program(div, &[floats(&[3]), ids(&[3]), floats(&[3])]), &["v1", "I32", "F32"]),
    ];
    covers!(
        table,
        Error::Program(ProgramError::Op { .. }),
        Error::Program(ProgramError::Shapes { .. }),
        Error::Program(ProgramError::Type { .. }),
        Error::Program(ProgramError::Size { .. }),
    );
    check(table);
}

/// Results that no `i32` holds, on interpreter and CPU: the step and the element are named.
#[test]
fn results_beyond_32_bits() {
    let i32s = |data: &[i32]| Tensor::from_i32(&[1, 3], data.to_vec()).expect("three");
    let f32s = |data: &[f32]| Tensor::from_f32(&[1, 3], data.to_vec()).expect("three");
    let int32 = |op, checked| Op::Int32(Int32 { op, checked });
    let (some, most) = (i32s(&[1, -2, 3]), i32s(&[1, 2, i32::MAX]));
    for (op, inputs, index) in [
        (int32(Int32Op::Add, true), vec![some.clone(), most.clone()], Some(2)),
        (int32(Int32Op::Add, false), vec![some.clone(), most.clone()], None),
        (int32(Int32Op::Div, false), vec![some.clone(), i32s(&[1, 0, 0])], Some(1)),
        (Op::ToInteger(ToInteger { to: U8 }), vec![f32s(&[0.0, 1.0, f32::NAN])], Some(2)),
        (Op::ToInteger(ToInteger { to: U8 }), vec![f32s(&[0.0, 3e9, 0.0])], Some(1)),
        (Op::Sum(Sum { axis: 1, checked: true }), vec![most.clone()], Some(0)),
        (Op::Sum(Sum { axis: 1, checked: false }), vec![most], None),
        (Op::Sum(Sum { axis: 1, checked: true }), vec![some], None),
    ] {
        let mut g = GraphBuilder::new();
        let ids = inputs
            .iter()
            .enumerate()
            .map(|(at, input)| g.typed_input(&format!("x{at}"), Shape::rows(3), input.dtype()).expect("an input"));
        let ids: Vec<_> = ids.collect();
        let y = g.node("y", op.clone(), &ids).expect("a node");
        let graph = g.finish([y]).expect("a graph");
        let by_interpreter = interp::Interpreter::new(&graph).run(&inputs);
        let engine = cpu::Engine::new(&lower::lower(&graph).expect("a program")).expect("an engine");
        let by_cpu = engine.run(&inputs);
        match index {
            None => assert_eq!(by_interpreter.ok(), by_cpu.ok(), "{op:?}"),
            Some(index) => {
                let (node, step) = ("y".to_owned(), "y".to_owned());
                assert_eq!(by_interpreter, Err(interp::InterpError::NoInteger { node, index }), "{op:?}");
                assert_eq!(by_cpu, Err(cpu::CpuError::NoInteger { step, index }), "{op:?}");
            }
        }
    }
}
