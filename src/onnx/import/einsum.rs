//! `Einsum`: sums of products of elements whose axes have letters, as transposes and matrix products.

use super::importer::Importer;
use super::operator::{Call, Operator, Values};
use crate::onnx::attributes::{int_attribute, ints_attribute};
use crate::onnx::host::{Data, Host, Length, show};
use crate::onnx::value::Value;

operators! {
    "Einsum" => Operator::nodes(Importer::einsum),
}

/// A value whose axes have letters.
struct Term {
    letters: Vec<char>,
    value: Value,
}

/// The letters of the inputs and of the result. Without an arrow, the result has the letters that occur once, in the order of the
/// alphabet.
fn parse(equation: &str) -> Result<(Vec<Vec<char>>, Vec<char>), String> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = match equation.split_once("->") {
        Some((inputs, output)) => (inputs.to_owned(), Some(output.to_owned())),
        None => (equation.clone(), None),
    };
    let letters = |term: &str| term.chars().collect::<Vec<char>>();
    let inputs: Vec<Vec<char>> = inputs.split(',').map(letters).collect();
    let output = output.map_or_else(
        || {
            let all = inputs.concat();
            let mut once: Vec<char> =
                all.iter().copied().filter(|c| all.iter().filter(|d| *d == c).count() == 1).collect();
            once.sort_unstable();
            once
        },
        |output| letters(&output),
    );
    for term in inputs.iter().chain([&output]) {
        if let Some(other) = term.iter().find(|c| !c.is_ascii_alphabetic()) {
            return Err(format!("its equation {equation} has {other:?}; supported are letters"));
        }
        if let Some(at) = (1..term.len()).find(|&at| term[..at].contains(&term[at])) {
            return Err(format!("its equation {equation} has {} twice in one term, which is not supported", term[at]));
        }
    }
    match output.iter().find(|letter| !inputs.iter().any(|term| term.contains(letter))) {
        Some(letter) => Err(format!("its equation {equation} has {letter} in the result only")),
        None => Ok((inputs, output)),
    }
}

impl Importer {
    fn einsum(&mut self, call: &Call<'_>) -> Values {
        let (inputs, output) = parse(call.node.string("equation", "")?)?;
        if inputs.len() != call.inputs.len() {
            return Err(format!("its equation has {} terms for {} inputs", inputs.len(), call.inputs.len()));
        }
        let mut terms = Vec::with_capacity(inputs.len());
        for (at, letters) in inputs.into_iter().enumerate() {
            let value = call.input(at)?.clone();
            let lengths = self.logical(&value);
            if lengths.len() != letters.len() {
                return Err(format!("its term {at} has {} letters for {}", letters.len(), show(&lengths)));
            }
            terms.push(Term { letters, value });
        }
        let mut terms = terms.into_iter();
        let mut sum = terms.next().ok_or("it has no inputs")?;
        let mut rest: Vec<Term> = terms.collect();
        let mut at = 0;
        while !rest.is_empty() {
            let next = rest.remove(0);
            at += 1;
            let needed =
                |letter: &char| output.contains(letter) || rest.iter().any(|term| term.letters.contains(letter));
            let kept: Vec<char> =
                sum.letters.iter().chain(&next.letters).copied().filter(|letter| needed(letter)).collect();
            sum = self.product_of(call, &format!("product{at}"), sum, next, &kept)?;
        }
        let sum = self.summed(call, "sum", sum, &output)?;
        Ok(vec![self.in_order(call, "result", sum, &output)?.value])
    }

    /// Sums a term along the axes whose letters are not kept.
    fn summed(&mut self, call: &Call<'_>, part: &str, term: Term, kept: &[char]) -> Result<Term, String> {
        let is_kept = |letter: &char| kept.contains(letter);
        let axes: Vec<i64> =
            (0..term.letters.len()).filter(|&at| !is_kept(&term.letters[at])).map(|at| at as i64).collect();
        if axes.is_empty() {
            return Ok(term);
        }
        let axes = Value::Host(Host::new(vec![axes.len()], Data::I64(axes)).into());
        let value = self.emitted(call, part, "ReduceSum", &[&term.value, &axes], &[int_attribute("keepdims", 0)])?;
        Ok(Term { letters: term.letters.into_iter().filter(is_kept).collect(), value })
    }

    /// Moves the axes of a term.
    fn in_order(&mut self, call: &Call<'_>, part: &str, term: Term, letters: &[char]) -> Result<Term, String> {
        if term.letters == letters {
            return Ok(term);
        }
        let place = |letter: &char| term.letters.iter().position(|own| own == letter).map(|at| at as i64);
        let perm: Option<Vec<i64>> = letters.iter().map(place).collect();
        let perm = perm.ok_or("its letters do not fit")?;
        let value = self.emitted(call, part, "Transpose", &[&term.value], &[ints_attribute("perm", perm)])?;
        Ok(Term { letters: letters.to_vec(), value })
    }

    /// A term in the shape of stacks of matrices: `outer` letters stay, the others become one axis each.
    fn as_matrices(
        &mut self,
        call: &Call<'_>,
        part: &str,
        term: Term,
        outer: &[char],
        matrix: [&[char]; 2],
    ) -> Result<Value, String> {
        let order = [outer, matrix[0], matrix[1]].concat();
        let term = self.in_order(call, &format!("{part}.moved"), term, &order)?;
        if matrix.iter().all(|letters| letters.len() == 1) {
            return Ok(term.value);
        }
        let lengths = self.logical(&term.value);
        let (mut at, mut dims) = (0, Vec::new());
        for group in outer.iter().map(|_| 1).chain(matrix.iter().map(|letters| letters.len())) {
            let group = &lengths[at..at + group];
            at += group.len();
            let known = group.iter().map(|length| if let Length::Known(n) = length { Some(*n as usize) } else { None });
            dims.push(match (known.collect::<Option<Vec<usize>>>(), dims.is_empty() && group.len() == 1) {
                (Some(known), _) => known.iter().product(),
                // As many rows as there are.
                (None, true) => 0,
                (None, false) => return Err("it merges the batch with another axis".to_owned()),
            });
        }
        self.in_shape(call, &format!("{part}.matrices"), &term.value, &dims)
    }

    /// The product of two terms, summed along the letters that are not kept.
    fn product_of(&mut self, call: &Call<'_>, part: &str, a: Term, b: Term, kept: &[char]) -> Result<Term, String> {
        let both = |letter: &char| a.letters.contains(letter) && b.letters.contains(letter);
        // What only one of them has is summed first.
        let own = |term: &Term| -> Vec<char> {
            term.letters.iter().copied().filter(|letter| both(letter) || kept.contains(letter)).collect()
        };
        let (a_letters, b_letters) = (own(&a), own(&b));
        let outer: Vec<char> = a_letters.iter().copied().filter(|l| both(l) && kept.contains(l)).collect();
        let inner: Vec<char> = a_letters.iter().copied().filter(|l| both(l) && !kept.contains(l)).collect();
        let left: Vec<char> = a_letters.iter().copied().filter(|l| !both(l)).collect();
        let right: Vec<char> = b_letters.iter().copied().filter(|l| !both(l)).collect();
        let lengths_of = |importer: &Self, term: &Term, letters: &[char]| -> Vec<Length> {
            let lengths = importer.logical(&term.value);
            letters.iter().filter_map(|l| term.letters.iter().position(|own| own == l).map(|at| lengths[at])).collect()
        };
        for letter in outer.iter().chain(&inner) {
            let [of_a, of_b] = [&a, &b].map(|term| lengths_of(self, term, &[*letter]));
            if of_a != of_b {
                return Err(format!("its letter {letter} has lengths {} and {}", show(&of_a), show(&of_b)));
            }
        }
        let (left_lengths, right_lengths) = (lengths_of(self, &a, &left), lengths_of(self, &b, &right));
        let outer_lengths = lengths_of(self, &a, &outer);
        let a = self.summed(call, &format!("{part}.left.sum"), a, &a_letters)?;
        let b = self.summed(call, &format!("{part}.right.sum"), b, &b_letters)?;
        let letters = [&outer[..], &left, &right].concat();
        // Without letters of both, rows of the left matrix are as many axes as they are: the right one is a weight, perhaps.
        let (x, y) = if outer.is_empty() && !left.is_empty() {
            let (last, front) = left.split_last().ok_or("its left term is a number")?;
            let x = self.as_matrices(call, &format!("{part}.left"), a, front, [&[*last], &inner])?;
            (x, self.as_matrices(call, &format!("{part}.right"), b, &[], [&inner, &right])?)
        } else {
            let x = self.as_matrices(call, &format!("{part}.left"), a, &outer, [&left, &inner])?;
            (x, self.as_matrices(call, &format!("{part}.right"), b, &outer, [&inner, &right])?)
        };
        let product = self.emitted(call, part, "MatMul", &[&x, &y], &[])?;
        let target = [outer_lengths, left_lengths, right_lengths].concat();
        if self.logical(&product) == target {
            return Ok(Term { letters, value: product });
        }
        let mut dims = Vec::with_capacity(target.len());
        for (at, length) in target.iter().enumerate() {
            dims.push(match length {
                Length::Known(n) => *n as usize,
                Length::Rows(_) if at == 0 => 0,
                Length::Rows(_) => return Err("it moves the batch behind another axis".to_owned()),
            });
        }
        Ok(Term { letters, value: self.in_shape(call, &format!("{part}.axes"), &product, &dims)? })
    }
}
