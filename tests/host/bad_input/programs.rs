//! Programs, and what the CPU engine runs.

use enfold::cpu::{self, CpuError};
use enfold::lower::lower;
use enfold::ops::{ChooseQParams, Op, Quantize, Reshape, Transpose};
use enfold::program::{Epilogue, Program, ProgramError, QLinear, Step, StepOp, Value, ValueId, ValueType};
use enfold::quantize::to_integer;
use enfold::values::{QParams, QScheme, QuantRange};
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
        bits: 8,
        groups: None,
        n: 3,
        k: 2,
        bias: vec![0; 3].into(),
        fraction_bits: 0,
        epilogue: Epilogue::Requantize { multiplier: vec![0.1; 3].into(), zero_point: 0, lo: -128, hi: 127 },
    };
    change(&mut values, &mut linear);
    step(values, StepOp::QLinear(linear), &[input], output)
}

/// A program of one step, from value 0 to value 1.
fn step(values: Vec<Value>, op: StepOp, inputs: &[usize], output: usize) -> Result<Program, ProgramError> {
    let inputs = inputs.iter().map(|&input| ValueId::new(input)).collect();
    let step = Step { name: "fc".to_owned(), op, inputs, output: ValueId::new(output) };
    Program::new(values, Vec::new(), vec![ValueId::new(0)], vec![ValueId::new(1)], vec![step])
}

fn reshape(dims: &[usize]) -> StepOp {
    Reshape { dims: dims.to_vec() }.into()
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
        step(values, reshape(&[4]), &[0], 1)
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
        let steps = vec![to("h", StepOp::ToF16, 0, 1), to("fc", reshape(&[4]), 1, 2)];
        Program::new(values, Vec::new(), vec![ids(0)], vec![ids(2)], steps)
    };
    let per_token = StepOp::Op(Op::ChooseQParams(ChooseQParams {
        qscheme: QScheme::per_token_affine(),
        range: QuantRange::INT8,
        eps: 1e-6,
    }));
    let table = vec![
        row("halves from the caller", moved(ValueType::F16), &["x", "F16", "F32"]),
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
                StepOp::Op(Op::Transpose(Transpose { perm: vec![0] })),
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
        row("too many fraction bits", program(|_, l| l.fraction_bits = 32), &["fc", "fraction bits", "32", "12"]),
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
        Error::Program(ProgramError::QuantizedRange { .. }),
        Error::Program(ProgramError::Accumulator { .. }),
    );
    check(table);
}

/// A layer whose input is quantized at run time, with a chance to break it.
fn dynamic(change: impl FnOnce(&mut QLinear)) -> Result<Program, ProgramError> {
    let value = |name: &str, value_type, shape| Value { name: name.to_owned(), value_type, shape, qparams: None };
    let values = vec![
        value("x", ValueType::I8, Shape::rows(2)),
        value("pairs", ValueType::F32, Shape::fixed(&[2])),
        value("y", ValueType::F32, Shape::rows(3)),
    ];
    let mut linear = QLinear {
        weight: vec![1, 2, 3, -4, 5, 6].into(),
        bits: 8,
        groups: None,
        n: 3,
        k: 2,
        bias: vec![0; 3].into(),
        fraction_bits: 0,
        epilogue: epilogue(&[3, -1, 11]),
    };
    change(&mut linear);
    let [x, pairs, y] = [0, 1, 2].map(ValueId::new);
    let step = Step { name: "fc".to_owned(), op: StepOp::QLinear(linear), inputs: vec![x, pairs], output: y };
    Program::new(values, Vec::new(), vec![x, pairs], vec![y], vec![step])
}

fn epilogue(sums: &[i32]) -> Epilogue {
    let (scale, bias) = (vec![0.5; 3].into(), vec![0.25; 3].into());
    Epilogue::Dynamic { scale, weight_sum: sums.into(), bias, relu: false }
}

/// `Program::new` refuses programs that break the assumptions of the engines.
#[test]
fn what_engines_rely_on() {
    assert!(dynamic(|_| {}).is_ok());
    let unused = {
        let good = program(|_, _| {}).expect("valid");
        let mut values = good.values().to_vec();
        values.push(Value { name: "nobody".to_owned(), ..values[0].clone() });
        Program::new(values, Vec::new(), good.inputs().to_vec(), good.outputs().to_vec(), good.steps().to_vec())
    };
    let of = |zero_point| Some(QParams::new(0.1, zero_point).expect("valid"));
    // A step from int8 to int8, with these qparams.
    let moved = |op, [x, y]: [Option<QParams>; 2]| {
        let value = |name: &str, qparams| Value {
            name: name.to_owned(),
            value_type: ValueType::I8,
            shape: Shape::batched(&[1, 3]),
            qparams,
        };
        step(vec![value("x", x), value("y", y)], op, &[0], 1)
    };
    let quantized = |says, does: Option<QParams>| {
        let value = |name: &str, value_type, qparams| Value {
            name: name.to_owned(),
            value_type,
            shape: Shape::rows(3),
            qparams,
        };
        let op = StepOp::Op(Op::Quantize(Quantize::new(does.expect("given"), QuantRange::INT8)));
        step(vec![value("x", ValueType::F32, None), value("y", ValueType::I8, says)], op, &[0], 1)
    };
    let turned = || StepOp::Op(Op::Transpose(Transpose { perm: vec![0, 1, 2] }));
    assert!(moved(turned(), [of(3), of(3)]).is_ok() && moved(turned(), [None, None]).is_ok());
    assert!(quantized(of(3), of(3)).is_ok() && quantized(None, of(3)).is_ok());
    let huge = |dims: &[usize]| {
        let value = |name: &str, dims| Value {
            name: name.to_owned(),
            value_type: ValueType::F32,
            shape: Shape::batched(dims),
            qparams: None,
        };
        step(vec![value("x", dims), value("y", &[7])], reshape(&[7]), &[0], 1)
    };
    let table = vec![
        row(
            "a bias in a sum whose scale is found at run time",
            dynamic(|l| l.bias = vec![0, -5, 0].into()),
            &["fc", "channel 1", "bias", "-5", "expected 0"],
        ),
        row("fraction bits in such a sum", dynamic(|l| l.fraction_bits = 1), &["fc", "fraction bits", "1", "0"]),
        row(
            "a sum of weights that is not theirs",
            dynamic(|l| l.epilogue = epilogue(&[3, -1, 12])),
            &["fc", "channel 2", "weight sum", "12", "11"],
        ),
        row("a value that nothing writes", unused, &["nobody", "no step writes it"]),
        row(
            "floats with the parameters of codes",
            program(|v, l| {
                v[1].value_type = ValueType::F32;
                l.epilogue = Epilogue::Scale { scale: vec![0.1; 3].into(), relu: false };
            }),
            &["y", "not of int8"],
        ),
        row("codes that mean something else", quantized(of(4), of(3)), &["fc", "y", "zero point 4", "zero point 3"]),
        row("codes with another zero point", program(|v, _| v[1].qparams = of(7)), &["fc", "y", "point 7", "point 0"]),
        row("codes that changed on their way", moved(turned(), [of(1), of(2)]), &["fc", "y", "point 2", "point 1"]),
        row("codes that became known on their way", moved(reshape(&[1, 3]), [None, of(2)]), &["fc", "y", "point 2"]),
        row(
            "more elements than a number can count",
            huge(&[usize::MAX / 2 + 1, 2]),
            &["x", "9223372036854775808", "576460752303423487"],
        ),
        row("a product that wraps around to 7", huge(&[7, 1 << 63, 2]), &["x", "9223372036854775808"]),
    ];
    covers!(
        table,
        Error::Program(ProgramError::Channel { .. }),
        Error::Program(ProgramError::QParams { .. }),
        Error::Program(ProgramError::Elements { .. }),
    );
    check(table);
}

#[test]
fn the_cpu_engine() {
    let program = lower(&to_integer(&quantized()).expect("rewritten")).expect("lowered");
    let engine = cpu::Engine::new(&program).expect("an engine");
    let long = lower(&long_layer(70_000, 0)).expect("lowered");
    let library = cpu::Options { gemm: cpu::GemmBackend::Rten };
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
            let op = StepOp::Op(Op::Quantize(Quantize::new(qparams, QuantRange::INT8)));
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
