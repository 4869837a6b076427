//! Programs, and what the CPU engine runs.

use enfold::cpu::{self, CpuError};
use enfold::lower::lower;
use enfold::program::{Epilogue, Program, ProgramError, QLinear, Step, StepOp, Value, ValueId, ValueType};
use enfold::qparams::{QParams, QScheme, QuantRange};
use enfold::quantize::reference;
use enfold::{Error, Shape, Tensor};

use super::flow::long_layer;
use super::{check, f32s, quantized, row};

/// x → one layer → y, with a chance to break it.
fn program(change: impl FnOnce(&mut Vec<Value>, &mut QLinear)) -> Result<Program, ProgramError> {
    wired(change, 0, 1)
}

/// The same, with other values read and written.
fn wired(
    change: impl FnOnce(&mut Vec<Value>, &mut QLinear),
    input: usize,
    output: usize,
) -> Result<Program, ProgramError> {
    let qparams = QParams::new(0.1, 0).expect("valid");
    let value = |name: &str, cols| Value {
        name: name.to_owned(),
        value_type: ValueType::I8,
        shape: Shape::rows(cols),
        qparams: Some(qparams),
    };
    let mut values = vec![value("x", 2), value("y", 3)];
    let mut linear = QLinear {
        weight: vec![1; 6].into(),
        n: 3,
        k: 2,
        bias: vec![0; 3].into(),
        fraction_bits: 0,
        epilogue: Epilogue::Requantize { multiplier: vec![0.1; 3].into(), zero_point: 0, lo: -128, hi: 127 },
    };
    change(&mut values, &mut linear);
    step(values, StepOp::Linear(linear), &[input], output)
}

/// A program of one step, from value 0 to value 1.
fn step(values: Vec<Value>, op: StepOp, inputs: &[usize], output: usize) -> Result<Program, ProgramError> {
    let inputs = inputs.iter().map(|&input| ValueId::new(input)).collect();
    let step = Step { name: "fc".to_owned(), op, inputs, output: ValueId::new(output) };
    Program::new(values, Vec::new(), vec![ValueId::new(0)], vec![ValueId::new(1)], vec![step])
}

#[test]
fn programs() {
    assert!(program(|_, _| {}).is_ok());
    let epilogue = |multiplier: f32, zero_point, lo| Epilogue::Requantize {
        multiplier: vec![0.1, multiplier, 0.1].into(),
        zero_point,
        lo,
        hi: 127,
    };
    let constant = {
        let good = program(|_, _| {}).expect("valid");
        let constants = vec![(ValueId::new(0), std::sync::Arc::new(f32s(&[2], 1.0)))];
        Program::new(good.values().to_vec(), constants, Vec::new(), good.outputs().to_vec(), good.steps().to_vec())
    };
    let floats = |name: &str, value_type, shape| Value { name: name.to_owned(), value_type, shape, qparams: None };
    let moved = |value_type| {
        let values = vec![floats("x", value_type, Shape::rows(4)), floats("y", value_type, Shape::rows(4))];
        step(values, StepOp::Reshape, &[0], 1)
    };
    let of_two = |x: (ValueType, Shape), y: (ValueType, Shape), op| {
        step(vec![floats("x", x.0, x.1), floats("y", y.0, y.1)], op, &[0], 1)
    };
    let halves_read = {
        let (float, half) = (ValueType::F32, ValueType::F16);
        let values = [("x", float), ("h", half), ("y", half)].map(|(name, t)| floats(name, t, Shape::rows(4))).to_vec();
        let ids = |at| ValueId::new(at);
        let to =
            |name: &str, op, from, to| Step { name: name.to_owned(), op, inputs: vec![ids(from)], output: ids(to) };
        let steps = vec![to("h", StepOp::ToHalf, 0, 1), to("fc", StepOp::Reshape, 1, 2)];
        Program::new(values, Vec::new(), vec![ids(0)], vec![ids(2)], steps)
    };
    let per_token = StepOp::ChooseQParams { qscheme: QScheme::PerTokenAffine, range: QuantRange::INT8, eps: 1e-6 };
    let table = vec![
        row("halves from the caller", moved(ValueType::F16), &["x", "16-bit"]),
        row("halves that a step reads", halves_read, &["fc", "h", "F16", "F32"]),
        row(
            "scales of rows without features",
            of_two((ValueType::F32, Shape::batched(&[])), (ValueType::F32, Shape::fixed(&[2])), per_token),
            &["fc", "[rows]", "[2]"],
        ),
        row(
            "a batch that is turned by itself",
            of_two(
                (ValueType::F32, Shape::batched(&[])),
                (ValueType::F32, Shape::batched(&[])),
                StepOp::Transpose { perm: vec![0] },
            ),
            &["fc", "[rows]"],
        ),
        row("a value that does not exist", wired(|_, _| {}, 0, 9), &["fc", "9", "2"]),
        row("a value that is read before it is written", wired(|_, _| {}, 1, 1), &["y", "read before"]),
        row("an output that nothing writes", wired(|_, _| {}, 0, 0), &["x", "written twice"]),
        row("a value with 0 columns", program(|v, _| v[0].shape = Shape::rows(0)), &["x", "[0]"]),
        row("wrong features", program(|v, _| v[0].shape = Shape::rows(5)), &["fc", "input columns", "5", "2"]),
        row(
            "wrong inner dimensions",
            program(|v, _| v[0].shape = Shape::batched(&[4, 2])),
            &["fc", "[rows, 4, 2]", "[rows, 3]"],
        ),
        row(
            "a result that loses the batch",
            program(|v, _| v[1].shape = Shape::fixed(&[3])),
            &["fc", "[rows, 2]", "[3]"],
        ),
        row("a constant of another shape", constant, &["x", "f32[2]", "i8[rows, 2]"]),
        row("too few weights", program(|_, l| l.weight = vec![1; 5].into()), &["fc", "weight length", "5", "6"]),
        row("too few biases", program(|_, l| l.bias = vec![1; 2].into()), &["fc", "bias length", "2", "3"]),
        row("too many fraction bits", program(|_, l| l.fraction_bits = 32), &["fc", "fraction bits", "32", "8"]),
        row("floats where codes belong", program(|v, _| v[0].value_type = ValueType::F32), &["fc", "x", "F32", "I8"]),
        row(
            "a subnormal multiplier",
            program(|_, l| l.epilogue = epilogue(1e-40, 0, -128)),
            &["fc", "channel 1", "1e-40"],
        ),
        row("an infinite multiplier", program(|_, l| l.epilogue = epilogue(f32::INFINITY, 0, -128)), &["fc", "inf"]),
        row("a negative multiplier", program(|_, l| l.epilogue = epilogue(-0.5, 0, -128)), &["fc", "-5e-1"]),
        row("codes beyond int8", program(|_, l| l.epilogue = epilogue(0.1, 0, -129)), &["fc", "-129"]),
        row("a zero point beyond int8", program(|_, l| l.epilogue = epilogue(0.1, 200, -128)), &["fc", "200"]),
        row(
            "a bias beyond the accumulator",
            program(|_, l| l.bias = vec![0, i32::MIN, 0].into()),
            &["fc", "channel 1", "2147483648", "256"],
        ),
    ];
    covers!(
        table,
        Error::Program(ProgramError::UnknownValue { .. }),
        Error::Program(ProgramError::Order { .. }),
        Error::Program(ProgramError::Dims { .. }),
        Error::Program(ProgramError::Shapes { .. }),
        Error::Program(ProgramError::Constant { .. }),
        Error::Program(ProgramError::Size { .. }),
        Error::Program(ProgramError::Type { .. }),
        Error::Program(ProgramError::Factor { .. }),
        Error::Program(ProgramError::Codes { .. }),
        Error::Program(ProgramError::Accumulator { .. }),
    );
    check(table);
}

#[test]
fn the_cpu_engine() {
    let program = lower(&reference(&quantized()).expect("rewritten")).expect("lowered");
    let engine = cpu::Engine::new(&program).expect("an engine");
    let long = lower(&long_layer(70_000, 0)).expect("lowered");
    let library = cpu::Options { product: cpu::Product::Library, ..cpu::Options::default() };
    let two_inputs = {
        let qparams = QParams::new(0.1, 0).expect("valid");
        let value = |name: &str, value_type, qparams| Value {
            name: name.to_owned(),
            value_type,
            shape: Shape::rows(2),
            qparams,
        };
        let values = vec![
            value("a", ValueType::F32, None),
            value("b", ValueType::F32, None),
            value("qa", ValueType::I8, Some(qparams)),
            value("qb", ValueType::I8, Some(qparams)),
        ];
        let quantize = |name: &str, at| {
            let op = StepOp::Quantize { qparams, range: QuantRange::INT8 };
            Step { name: name.to_owned(), op, inputs: vec![ValueId::new(at)], output: ValueId::new(at + 2) }
        };
        let ids = |a, b| vec![ValueId::new(a), ValueId::new(b)];
        Program::new(values, Vec::new(), ids(0, 1), ids(2, 3), vec![quantize("qa", 0), quantize("qb", 1)])
            .expect("valid")
    };
    let two = cpu::Engine::new(&two_inputs).expect("an engine");
    let table = vec![
        row("no input", engine.run::<Tensor>(&[]), &["0 inputs", "1"]),
        row("wrong features", engine.run(&[f32s(&[2, 5], 1.0)]), &["x", "[2, 5]", "[rows, 4]"]),
        row("wrong type", engine.run(&[Tensor::from_i8(&[1, 4], vec![0; 4]).expect("fits")]), &["x", "i8", "f32"]),
        row("zero rows", engine.run(&[f32s(&[0, 4], 1.0)]), &["x", "0 rows"]),
        row("a NaN", engine.run(&[f32s(&[2, 4], f32::NAN)]), &["x.quantize", "element 0"]),
        row("batches of two sizes", two.run(&[f32s(&[2, 2], 1.0), f32s(&[3, 2], 1.0)]), &["b", "3", "2"]),
        row("the library's product beyond its K", cpu::Engine::with_options(&long, &library), &["fc", "70000"]),
    ];
    covers!(
        table,
        Error::Cpu(CpuError::InputCount { .. }),
        Error::Cpu(CpuError::Shape { .. }),
        Error::Cpu(CpuError::DType { .. }),
        Error::Cpu(CpuError::NoRows { .. }),
        Error::Cpu(CpuError::NotANumber { .. }),
        Error::Cpu(CpuError::Rows { .. }),
        Error::Cpu(CpuError::Inexact { .. }),
    );
    check(table);
}
